"""How a job is decided: gather, filter, rank, reserve."""
