"""A router under test: a thread with a database connection of its own, which can be stopped and crashed.

It passes *points*: before each statement, before each COMMIT and after it. A statement that writes outside a
transaction is its own COMMIT. At any of them it may wait for leave to go
on, and at any of them it may crash, which is what a killed process looks like to the database: the connection is gone
without a ROLLBACK, and nothing that the router still does reaches the database.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from tests.properties.history import AFTER_COMMIT, BEFORE_COMMIT, STATEMENT

Work = Callable[[], Any]
WRITES = ("BEGIN", "INSERT", "UPDATE", "DELETE", "WITH")


class Crash(BaseException):
    """End an operation as nothing can catch that catches exceptions."""


class Router:
    """One router. All methods are for the thread that drives it, all private ones for its own."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.pid = 0
        self.answer: Any = None
        self.crashed: str | None = None
        self.point = ""
        self.done = True
        self.wants_to_write = self.writing = self.waiting = False
        self.counts: dict[str, int] = {}
        self.passed_over = 0
        self._error: BaseException | None = None
        self._crash: tuple[str, int] | None = None
        self._work: Work = bool
        self._armed = self._stepwise = False
        self._connection: BaseDatabaseWrapper | None = None
        self._inbox: SimpleQueue[bool | None] = SimpleQueue()
        self._outbox: SimpleQueue[bool] = SimpleQueue()
        self._thread = Thread(target=self._run, name=f"router {number}", daemon=True)
        self._thread.start()

    def begin(self, work: Work, *, crash: tuple[str, int] | None = None, stepwise: bool = False) -> None:
        """Let the router begin some work; `stepwise`, it waits for `go_on` before it begins, and at each point."""
        self.answer = self.crashed = self._error = None
        self.done = False
        self.counts, self.passed_over = dict.fromkeys((STATEMENT, BEFORE_COMMIT, AFTER_COMMIT), 0), 0
        self._crash, self._stepwise, self._armed = crash, stepwise, True
        self._work, self.point = work, ""
        if not stepwise:
            self._inbox.put(True)

    def go_on(self) -> None:
        """Let a router that stopped go on to its next point."""
        self._inbox.put(True)

    def arrives(self, timeout: float | None = None) -> bool:
        """Wait for the router to stop or to end its work, and tell whether it did in time."""
        try:
            self.done = self._outbox.get(timeout=timeout)
        except Empty:
            return False
        self.waiting = False
        if self.done and self._error is not None:
            raise self._error
        return True

    def ask(self, work: Work) -> Any:
        """Let the router do some work, to its end, and return the answer."""
        self.begin(work)
        self.arrives()
        return self.answer

    def kill(self) -> None:
        """Crash a router that stopped."""
        self._inbox.put(False)

    def close(self) -> None:
        """End the thread and its connection."""
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (word := self._inbox.get()) is not None:
            try:
                self._connect()
                if not word:
                    self._die("killed")
                self.answer = self._work()
            except BaseException as error:
                if not self.crashed:  # or else it is the crash, or what came of it on the way up
                    self._error = error
            if self.crashed:
                self.answer = None  # what the code makes of a lost connection reaches no caller
                self._disconnect()
            self._armed = self.writing = False
            self._outbox.put(True)  # it is done
        connections.close_all()

    def _connect(self) -> None:
        if self._connection is not None:
            return
        self._connection = here = connections[DEFAULT_DB_ALIAS]
        here.ensure_connection()
        if here.vendor == "postgresql":
            self.pid = here.connection.info.backend_pid
        commit, rollback = here._commit, here._rollback  # type: ignore[attr-defined]
        vars(here).update(_commit=lambda: self._commit(commit), _rollback=lambda: self._rollback(rollback))
        here.execute_wrappers.append(self._statement)

    def _disconnect(self) -> None:
        """Forget the connection, so that the next work begins as a new process does.

        Django may have opened another one on the way up, which no statement has used.
        """
        assert self._connection is not None
        if self._connection.connection is not None:
            self._connection.connection.close()
        self._connection = None
        del connections[DEFAULT_DB_ALIAS]

    def _statement(self, execute: Callable[..., Any], sql: str, *arguments: Any) -> Any:
        self.wants_to_write = sql.startswith(WRITES)
        self._pass(STATEMENT, sql)
        alone = sql.startswith("WITH") and self._connection is not None and not self._connection.in_atomic_block
        if alone:
            self._pass(BEFORE_COMMIT, BEFORE_COMMIT)
        self.wants_to_write = False
        result = execute(sql, *arguments)
        if sql.startswith("BEGIN"):
            self.writing = True
        if self.waiting:
            self._stop("got the lock")
        if "SKIP LOCKED" in sql and not arguments[-1]["cursor"].rowcount:
            self.passed_over += 1
        elif alone:
            self._pass(AFTER_COMMIT, AFTER_COMMIT)
        return result

    def _commit(self, commit: Work) -> None:
        self._pass(BEFORE_COMMIT, BEFORE_COMMIT)
        commit()
        self.writing = False
        self._pass(AFTER_COMMIT, AFTER_COMMIT)

    def _rollback(self, rollback: Work) -> None:
        if not self.crashed:
            rollback()
        self.writing = False

    def _pass(self, kind: str, what: str) -> None:
        """Pass a point of this kind: stop there if asked to, and crash if it is the one."""
        if self.crashed:
            raise Crash
        if not self._armed:
            return
        nth = self.counts[kind]
        self.counts[kind] += 1
        if self._stepwise:
            self._stop(what)
        if self._crash == (kind, nth):
            self._die(kind)

    def _stop(self, what: str) -> None:
        self.point = what
        self._outbox.put(False)  # it has only stopped
        if self._inbox.get() is not True:
            self._die("killed")

    def _die(self, kind: str) -> None:
        """Crash. The connection is closed once everything is unwound, because open cursors could not do without it.

        Only SQLite's, which belongs to the process, must forget now: Django's way up would commit.
        """
        assert self._connection is not None
        if self._connection.vendor == "sqlite":
            self._connection.connection.rollback()
        self.crashed = kind
        raise Crash
