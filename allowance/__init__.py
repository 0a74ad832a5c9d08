"""The allowance ledger: what each miner owes us, block by block, and who has spoken for it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from allowance.service import Allowance


@cache
def allowance() -> Allowance:
    """Return the process-wide ledger service. Building it touches no database."""
    from allowance.service import Allowance

    return Allowance()
