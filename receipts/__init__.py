"""Receipts: signed records of validators and miners about jobs. They show which executors are busy."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from receipts.service import Receipts


@cache
def receipts() -> Receipts:
    """Return the process-wide receipts service. Building it does not use the database."""
    from receipts.service import Receipts

    return Receipts()
