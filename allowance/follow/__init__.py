"""The chain follower: it reads a chain, asks the miners, and records what it learns in the ledger."""
