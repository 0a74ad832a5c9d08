"""Where coroutines send what needs the database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import ParamSpec, TypeVar

from channels.db import database_sync_to_async
from django.conf import settings
from django.db import connections

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_THREADS = 8


@cache
def database_pool() -> ThreadPoolExecutor:
    """Return this process's pool: as many threads, and so database connections, as ALLOWANCE_THREADS says."""
    threads = getattr(settings, "ALLOWANCE_THREADS", DEFAULT_THREADS)
    return ThreadPoolExecutor(max_workers=threads, thread_name_prefix="allowance")


def in_database_thread(function: Callable[P, R]) -> Callable[P, Awaitable[R]]:
    """Return the coroutine function that runs `function` in the pool, with Django's care for old connections.

    The default of Channels is one thread for all, in which one slow query holds up every socket.
    """
    return database_sync_to_async(function, thread_sensitive=False, executor=database_pool())


def close_database_pool() -> None:
    """Close the connections of the pool's threads and end them; the next call starts a new pool."""
    pool = database_pool()
    everyone = Barrier(pool._max_workers)

    def close() -> None:
        everyone.wait()  # so that each thread gets one of these
        connections.close_all()

    for done in [pool.submit(close) for _ in range(pool._max_workers)]:
        done.result()
    pool.shutdown()
    database_pool.cache_clear()
