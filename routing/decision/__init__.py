"""The decision on a job: gather, filter, rank, reserve."""
