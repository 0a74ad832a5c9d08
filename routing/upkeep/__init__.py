"""The maintenance of the database: journals, pruning, voiding."""
