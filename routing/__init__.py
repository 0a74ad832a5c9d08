"""The router: it picks the miner for each job and records why."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from routing.service import Routing


@cache
def routing() -> Routing:
    """Return the router of this process. Creating it makes no database query."""
    from routing.service import Routing

    return Routing()
