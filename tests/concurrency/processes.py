"""The test's side of `tests.concurrency.program`: start processes, tell them what to do, see who waits for whom."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from queue import Queue
from threading import Thread
from typing import Any

from django.db import connection

Word = dict[str, Any]

DEADLINE = 120.0
"""Seconds until a test gives up: longer than any busy machine takes. Scripted races wait as long for locks."""


class Process:
    """A fresh interpreter on the test's database."""

    def __init__(self) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-m", "tests.concurrency.program", str(connection.settings_dict["NAME"])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        )
        self.lines: Queue[str] = Queue()
        self.reader = Thread(target=self._read, daemon=True)
        self.reader.start()
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
        self._say({"do": operation, "how": how, "stop": stop, "without": without, "patience": patience})

    def hear(self) -> Any:
        """Return what it says next. An end without a word is an error."""
        line = self.lines.get(timeout=DEADLINE)
        assert line, "the process has ended; its last words are on stderr"
        return json.loads(line)

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
        self._say("go on")

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
        """Kill it, and wait until the database has noticed: then its locks are gone and its statistics are in."""
        self.child.kill()
        self.reader.join(DEADLINE)
        with self.child:  # closes the pipes and waits
            pass
        while self._backend is not None:
            with connection.cursor() as cursor:
                cursor.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [self._backend])
                if not cursor.rowcount:
                    self._backend = None

    def _say(self, request: object) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(json.dumps(request) + "\n")
        self.child.stdin.flush()

    def _read(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            self.lines.put(line)
        self.lines.put("")


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
