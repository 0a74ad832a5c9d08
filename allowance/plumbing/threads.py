"""The threads in which coroutines use the database, or wait for something else that has no coroutine.

A forked child process gets a pool of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, wraps
from threading import Lock, Thread
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from channels.db import database_sync_to_async
from django.apps import apps
from django.db import close_old_connections, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from allowance.plumbing.database import alias, database
from allowance.plumbing.settings import conf

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
Service = TypeVar("Service")


@cache
def database_pool() -> ThreadPoolExecutor:
    """Return this process's pool. It has ALLOWANCE_THREADS threads, each with a database connection."""
    return ThreadPoolExecutor(conf.ALLOWANCE_THREADS, thread_name_prefix="allowance", initializer=_note_connection)


def in_database_thread(
    function: Callable[P, R], *, release_undelivered: Callable[[R], None] | None = None
) -> Callable[P, Awaitable[R]]:
    """Return a coroutine function that runs `function` in the pool, and closes old connections as Django does.

    By default Channels runs all calls in one thread. There, one slow query would delay all sockets.

    If the caller is cancelled before the call begins, `function` does not run. A thread can't be stopped, so a call
    that has begun runs to its end. If its caller was cancelled meanwhile, nothing receives the result. Then the pool
    calls `release_undelivered` with the result.
    """
    if release_undelivered is None:
        return database_sync_to_async(function, thread_sensitive=False, executor=database_pool())
    return _cancellable(function, release_undelivered)


def coroutine_twin(
    method: Callable[Concatenate[Service, P], R], *, release_undelivered: Callable[[R], None] | None = None
) -> Callable[Concatenate[Service, P], Coroutine[Any, Any, R]]:
    """Return the coroutine method that runs a method of the same object in the pool; see `in_database_thread`."""

    @wraps(method)
    async def call(self: Service, /, *args: P.args, **kwargs: P.kwargs) -> R:
        plain: Callable[P, R] = getattr(self, method.__name__)
        return await in_database_thread(plain, release_undelivered=release_undelivered)(*args, **kwargs)

    return call


async def in_daemon_thread(function: Callable[[], R]) -> R:
    """Run a function in a new thread, which delays neither other calls nor the end of the process.

    It is for functions that can't be cancelled and may hang, and that do not use the database.
    """
    future: Future[R] = Future()
    future.set_running_or_notify_cancel()  # the caller may be cancelled, but not the thread

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return await asyncio.wrap_future(future)


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
        except BaseException:  # cancelled, or the loop ended; if `function` itself failed, there is no result
            for result in handover.go():
                dispose_later(release_undelivered, result)
            raise

    return call


def dispose_later(release_undelivered: Callable[[R], None], result: R) -> None:
    """Call `release_undelivered` in the pool without waiting. Its errors are logged."""
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
    except Exception:  # no caller waits for the error, and an unreleased result expires by itself
        logger.exception(
            "Could not release %r, which its caller did not receive. It stays held until it expires.", result
        )


class Handover(Generic[R]):
    """Decide which side cleans up a result: the caller if it is still waiting, otherwise the thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._left: list[R] = []
        self._gone = False

    def leave(self, result: R) -> bool:
        """Leave the result for the caller. Return False if the caller is gone."""
        with self._lock:
            if not self._gone:
                self._left.append(result)
            return not self._gone

    def go(self) -> list[R]:
        """Record that the caller is gone. Return a list with the result that was left for it, if any."""
        with self._lock:
            self._gone = True
            return self._left


_connections_of_pool: list[Any] = []
"""Django's connections of the pool's threads. No other thread can find them through Django."""

_inherited: list[Any] = []
"""SQLite connections of the parent process. A child must neither use nor close them, so they are kept here."""


def _note_connection() -> None:
    _connections_of_pool.append(database())


def _begin_anew_in_child() -> None:
    """Give a forked child its own pool and connections: it inherits the parent's database sessions, but no threads."""
    database_pool.cache_clear()
    own = [connection for connection in _initialized() if connection.alias == alias()]
    for inherited in (*_connections_of_pool, *own):
        _leave_to_parent(inherited)
    _connections_of_pool.clear()
    for inherited in own:
        del connections[inherited.alias]  # its transaction state is the parent's, too


def _initialized() -> list[BaseDatabaseWrapper]:
    """Return the connections of this thread. Before Django has loaded the models, the apps have none."""
    return [*connections.all(initialized_only=True)] if apps.models_ready else []


def _leave_to_parent(inherited: Any) -> None:
    """Drop an inherited connection without a message to the server. A message would end the parent's session."""
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
