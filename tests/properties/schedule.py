"""Routers side by side, one at a time: who goes on next is drawn from a seed, so a race can be had again.

A router that waits for a lock is told from one that is slow by asking the database, never by a clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random

from django.db import connection

from tests.backends import wait_until_gone
from tests.programs import DEADLINE
from tests.properties.router import Router

POLL = 0.002
LONGEST = DEADLINE


class StuckError(AssertionError):
    """Say that routers wait for one another, or that one never comes back."""


Watch = Callable[[Router], None]


class Schedule:
    """One burst of `routers`: `before` each goes on and `after` each has stopped or ended, somebody is told."""

    def __init__(self, routers: Sequence[Router], seed: int, *, before: Watch, after: Watch) -> None:
        self.random = Random(seed)
        self.loyalty = self.random.choice([0.0, 0.5, 0.9])
        self.routers = routers
        self.before, self.after = before, after
        self.lock_waits = 0
        self._held_up: set[int] = set()

    def run(self) -> None:
        """Let the routers, which wait for leave to begin, go on until all have ended, one at a time."""
        last: Router | None = None
        while left := [router for router in self.routers if not router.done]:
            ready = [router for router in left if not self._kept_waiting(router)]
            if not ready:
                raise StuckError(f"Routers {[router.number for router in left]} wait for one another's locks.")
            if last not in ready or self.random.random() >= self.loyalty:
                last = self.random.choice(ready)
            assert last is not None
            self.before(last)
            last.go_on()
            self._await(last)
            for router in left:
                if router.waiting and not self._blocked(router):
                    self.before(router)
                    self._await(router)

    def abandon(self) -> None:
        """Crash all that have not ended, so that they can begin anew."""
        left = [router for router in self.routers if not router.done]
        for router in left:
            router.kill()
        for router in left:
            with suppress(Exception):
                while not router.done and router.arrives(LONGEST):
                    pass

    def _kept_waiting(self, router: Router) -> bool:
        """Tell whether a router waits for a lock, or would if it went on: SQLite's only lock goes to whoever begins."""
        if connection.vendor == "postgresql":
            return router.waiting
        held_up = router.wants_to_write and not router.writing and any(other.writing for other in self.routers)
        if held_up and router.number not in self._held_up:
            self.lock_waits += 1
        (self._held_up.add if held_up else self._held_up.discard)(router.number)
        return held_up

    def _await(self, router: Router) -> None:
        """Wait until a router stops, ends, or waits for a lock."""
        began = time.perf_counter()
        while not router.arrives(POLL):
            if connection.vendor == "postgresql" and self._blocked(router):
                self.lock_waits += not router.waiting
                router.waiting = True
                return
            if time.perf_counter() - began > LONGEST:
                raise StuckError(f"Router {router.number} does not come back.")
        if router.crashed:
            await_end_of(router.pid)
        self.after(router)

    def _blocked(self, router: Router) -> bool:
        """Tell whether a router waits for a lock of another one.

        It may also wait for PostgreSQL itself: autovacuum locks a table to shorten it. That ends on its own.
        """
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_blocking_pids(%s)", [router.pid])
            blocking = set(cursor.fetchone()[0])
        return not blocking.isdisjoint(other.pid for other in self.routers)


def await_end_of(pid: int) -> None:
    """Wait until PostgreSQL has noticed that the client of its process `pid` is gone, and has rolled back."""
    if connection.vendor == "postgresql":
        wait_until_gone([pid])
