"""Where the async twins run what needs the database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from channels.db import database_sync_to_async

P = ParamSpec("P")
R = TypeVar("R")

Pool = Callable[[], ThreadPoolExecutor | None]

_pools: list[Pool] = []


def lend(pool: Pool) -> None:
    """Let the twins run in a pool of the site's, so that the process has one bound on its database connections."""
    _pools[:] = [pool]


def in_database_thread(function: Callable[P, R]) -> Callable[P, Awaitable[R]]:
    """Return the coroutine function that runs `function` in the pool lent, else in the event loop's own threads."""
    executor = _pools[0]() if _pools else None
    return database_sync_to_async(function, thread_sensitive=False, executor=executor)
