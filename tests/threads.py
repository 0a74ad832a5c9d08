"""Calls in threads of their own, each with its own connection to the database, and the end of the product's threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from django.db import connections

from allowance.plumbing import threads


def side_by_side(*calls: Callable[[], object]) -> list[object]:
    """Make calls at once; return what they returned or raised."""

    def call(function: Callable[[], object]) -> object:
        try:
            return function()
        except Exception as error:
            return error
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(call, calls))


def close_database_pool() -> None:
    """Close the connections of the pool's threads and end the threads. The next call starts a new pool."""
    pool = threads.database_pool()
    everyone = Barrier(pool._max_workers)

    def close() -> None:
        everyone.wait()  # so that each thread runs one of these calls
        connections.close_all()

    for done in [pool.submit(close) for _ in range(pool._max_workers)]:
        done.result()
    pool.shutdown()
    threads.database_pool.cache_clear()
    threads._connections_of_pool.clear()
