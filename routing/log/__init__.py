"""What was decided, kept in the database: to read, to explain, to decide again."""
