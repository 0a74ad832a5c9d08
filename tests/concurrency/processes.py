"""The test's side of `tests.concurrency.program`: start processes, see who waits for whom."""

from __future__ import annotations

from typing import Any

from django.db import connection

from tests.backends import wait_until_gone
from tests.programs import Worker, wait_until

Word = dict[str, Any]


class Process(Worker):
    """A worker that can stop on its way. It begins with the name of its connection."""

    def __init__(self) -> None:
        super().__init__("tests.concurrency.program")
        self._backend: int | None = None
        self.tell("name_connection")

    def await_start(self) -> None:
        self._backend = self.answer()

    def stopped(self) -> str:
        """Wait until it has stopped, and return where."""
        place: str = self.hear()["stopped"]
        return place

    def go_on(self) -> None:
        self.say("go on")

    def waits_for(self, other: Process) -> bool:
        """Wait until it has something to say (False), or until the database lets it wait for another (True)."""

        def look() -> list[bool]:
            with connection.cursor() as cursor:
                cursor.execute("SELECT %s = ANY (pg_blocking_pids(%s))", [other._backend, self._backend])
                waits: bool = cursor.fetchone()[0]
            return [waits] if waits or not self.lines.empty() else []

        return wait_until(look)[0]

    def end(self) -> None:
        """Kill it, and wait until the database has noticed."""
        super().end()
        if self._backend is not None:
            wait_until_gone([self._backend])
            self._backend = None


class Crew:
    """Processes that several tests use in turn, because an interpreter takes a second to start."""

    def __init__(self) -> None:
        self.members: list[Process] = []

    def call(self, count: int) -> list[Process]:
        """Return `count` processes that have nothing to do."""
        starting = [Process() for _ in range(count - len(self.members))]
        self.members += starting
        for process in starting:
            process.await_start()
        return self.members[:count]

    def dismiss(self, *, busy_only: bool = False) -> None:
        """End the processes, or only those that a failed test left in the middle of something."""
        for process in [p for p in self.members if p.busy or not busy_only]:
            process.end()
            self.members.remove(process)
