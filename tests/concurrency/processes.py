"""The test's side of `tests.concurrency.program`: start processes, tell them what to do, see who waits for whom."""

from __future__ import annotations

import time
from typing import Any

from django.db import connection

from tests.backends import wait_until_gone
from tests.programs import DEADLINE, Program

Word = dict[str, Any]


class Process(Program):
    """A fresh interpreter on the test's database."""

    def __init__(self) -> None:
        super().__init__("tests.concurrency.program", str(connection.settings_dict["NAME"]))
        self.busy = True
        self._backend: int | None = None

    def await_start(self) -> None:
        self._backend = self.hear()["backend"]
        self.busy = False

    def ask(
        self, operation: str, *, stop: str = "", without: str = "", patience: float = DEADLINE, **how: object
    ) -> None:
        """Tell it to do something; see `tests.concurrency.program`."""
        self.busy = True
        self.say({"do": operation, "how": how, "stop": stop, "without": without, "patience": patience})

    def words(self) -> list[Word]:
        """Return all that it says until it is done with what it was asked."""
        words = list(iter(self.hear, "over"))
        self.busy = False
        return words

    def answer(self) -> Word:
        """Return its only word on what it was asked."""
        (word,) = self.words()
        return word

    def stopped(self) -> str:
        """Wait until it has stopped, and return where."""
        place: str = self.hear()["stopped"]
        return place

    def go_on(self) -> None:
        self.say("go on")

    def waits_for(self, other: Process) -> bool:
        """Wait until it has something to say (False), or until the database lets it wait for another (True)."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            with connection.cursor() as cursor:
                cursor.execute("SELECT %s = ANY (pg_blocking_pids(%s))", [other._backend, self._backend])
                if cursor.fetchone()[0]:
                    return True
            if not self.lines.empty():
                return False
            time.sleep(0.01)
        raise TimeoutError

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
