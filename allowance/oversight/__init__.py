"""Operations on the whole ledger: audit, totals, fates of blocks, forgetting, pruning."""
