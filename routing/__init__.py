"""Pick the miner for a job, and be able to say why."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from routing.service import Routing


@cache
def routing() -> Routing:
    """Return the process-wide router. Building it touches no database."""
    from routing.service import Routing

    return Routing()
