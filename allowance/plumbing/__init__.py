"""Django plumbing that knows nothing of the ledger; all three apps use it."""
