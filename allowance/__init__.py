"""The allowance ledger: the executor-seconds that each miner owes us for each block, and their reservations."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from allowance.service import Allowance


@cache
def allowance() -> Allowance:
    """Return the process-wide ledger service. Building it does not access the database."""
    from allowance.service import Allowance

    return Allowance()
