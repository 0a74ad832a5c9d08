"""The transfer of receipts from the miners, which serve them as pages of lines: read, verified and stored."""
