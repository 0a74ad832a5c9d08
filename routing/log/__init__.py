"""The log of decisions in the database, which can be read, explained and replayed."""
