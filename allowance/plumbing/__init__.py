"""Django helpers that do not depend on the ledger. All three apps use them."""
