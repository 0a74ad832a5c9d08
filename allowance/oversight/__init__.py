"""The ledger seen as a whole: audited, summed up, drawn, pruned."""
