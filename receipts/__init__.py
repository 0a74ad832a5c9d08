"""Receipts: what validators and miners signed about jobs, and so which executors are busy."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from receipts.service import Receipts


@cache
def receipts() -> Receipts:
    """Return the process-wide receipts service. Building it touches no database."""
    from receipts.service import Receipts

    return Receipts()
