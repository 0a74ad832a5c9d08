"""Where coroutines send what needs the database. A forked child begins with a pool of its own."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, wraps
from threading import Barrier, Lock
from typing import Any, Generic, ParamSpec, TypeVar

from channels.db import database_sync_to_async
from django.db import DEFAULT_DB_ALIAS, close_old_connections, connections

from allowance.plumbing.settings import conf

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


@cache
def database_pool() -> ThreadPoolExecutor:
    """Return this process's pool: as many threads, and so database connections, as ALLOWANCE_THREADS says."""
    return ThreadPoolExecutor(conf.ALLOWANCE_THREADS, thread_name_prefix="allowance", initializer=_note_connection)


def in_database_thread(
    function: Callable[P, R], *, release_undelivered: Callable[[R], None] | None = None
) -> Callable[P, Awaitable[R]]:
    """Return the coroutine function that runs `function` in the pool, with Django's care for old connections.

    The default of Channels is one thread for all, in which one slow query holds up every socket.

    If the caller is cancelled before its call has begun, nothing is done. A thread can't be stopped: what it has begun
    it ends. The result then reaches nobody, and `release_undelivered` is called with it, in the pool.
    """
    if release_undelivered is None:
        return database_sync_to_async(function, thread_sensitive=False, executor=database_pool())
    return _cancellable(function, release_undelivered)


def _cancellable(function: Callable[P, R], release_undelivered: Callable[[R], None]) -> Callable[P, Awaitable[R]]:
    @wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        handover: Handover[R] = Handover()

        def run() -> R:
            result = function(*args, **kwargs)
            if not handover.leave(result):
                _dispose(release_undelivered, result)
            return result

        try:
            return await in_database_thread(run)()
        except BaseException:  # a cancellation, or the end of the loop; if `function` itself failed, nothing was left
            for result in handover.go():
                dispose_later(release_undelivered, result)
            raise

    return call


def dispose_later(release_undelivered: Callable[[R], None], result: R) -> None:
    """Call `release_undelivered` in the pool; nobody waits for it, so what fails there is logged."""
    database_pool().submit(_dispose_in_pool, release_undelivered, result)


def _dispose_in_pool(release_undelivered: Callable[[R], None], result: R) -> None:
    close_old_connections()
    try:
        _dispose(release_undelivered, result)
    finally:
        close_old_connections()


def _dispose(release_undelivered: Callable[[R], None], result: R) -> None:
    try:
        release_undelivered(result)
    except Exception:  # nobody is left to tell, and what is not given back must end by itself anyway
        logger.exception("Could not give back %r, which nobody has.", result)


class Handover(Generic[R]):
    """Settle between a thread and its caller who answers for a result: one of them learns that it is never taken."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._left: list[R] = []
        self._gone = False

    def leave(self, result: R) -> bool:
        """Leave the result for the caller. Returns False if the caller is gone."""
        with self._lock:
            if not self._gone:
                self._left.append(result)
            return not self._gone

    def go(self) -> list[R]:
        """Say that the caller is gone. Returns the result if it was left before."""
        with self._lock:
            self._gone = True
            return self._left


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
    _connections_of_pool.clear()


_connections_of_pool: list[Any] = []
"""Django's connections of the pool's threads, which no other thread could find."""

_inherited: list[Any] = []
"""SQLite's connections of a parent process: a child may neither use nor close them."""


def _note_connection() -> None:
    _connections_of_pool.append(connections[DEFAULT_DB_ALIAS])


def _begin_anew_in_child() -> None:
    """Give a forked child a pool and connections of its own: it inherits its parent's sessions, and no threads."""
    database_pool.cache_clear()
    own = [connection for connection in connections.all(initialized_only=True) if connection.alias == DEFAULT_DB_ALIAS]
    for inherited in (*_connections_of_pool, *own):
        _leave_to_parent(inherited)
    _connections_of_pool.clear()
    if own:
        del connections[DEFAULT_DB_ALIAS]  # with what it knows of a transaction, which is the parent's too


def _leave_to_parent(inherited: Any) -> None:
    """Give an inherited connection up without a message to its server, which would end the session of the parent."""
    raw, inherited.connection = inherited.connection, None
    if inherited.vendor != "postgresql":
        _inherited.append(raw)
    elif raw is not None and not raw.closed:
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, raw.fileno())
        os.close(nowhere)
        raw.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew_in_child)
