"""What keeps the database small and lets it move: journals, pruning."""
