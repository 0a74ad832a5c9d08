"""Programs of a test: each a fresh interpreter on the test's database, spoken with in lines of JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from queue import Queue
from threading import Thread
from types import TracebackType
from typing import Any, Self

from django.db import connection

from tests.faults.aftermath import Route

DEADLINE = 60.0
"""Seconds after which a test gives up on what it waits for: longer than any busy machine takes."""

ADDRESS = ("NAME", "USER", "PASSWORD", "HOST", "PORT")


class Child:
    """One `python -m tests.faults.child`, which does what it is asked; killed at the end, whatever happened."""

    def __init__(self, *, name: str = "", **database: object) -> None:
        address = {key: connection.settings_dict[key] for key in ADDRESS} | database
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.child", json.dumps(address)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ) | {"PGAPPNAME": name},
        )
        self.lines: Queue[str] = Queue()
        self.reader = Thread(target=self._read, daemon=True)
        self.reader.start()

    def __enter__(self) -> Self:
        assert self.hear() == "ready"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.kill()
        self.reader.join(DEADLINE)
        with self.process:  # closes the pipes and waits
            pass

    def say(self, **request: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        """Return what the child says next. An end without a word is an error."""
        line = self.lines.get(timeout=DEADLINE)
        assert line, "the child has ended; its last words are on stderr"
        return json.loads(line)

    def ask(self, operation: str, scene: object = None, **how: object) -> Any:
        """Let the child do something, and return what came of it; see `tests.faults.child`."""
        self.say(do=operation, scene=scene or {}, **how)
        return self.hear()

    def pick(self) -> Route:
        """Let the child pick a miner for a job that it makes up."""
        return Route(*self.ask("pick")["result"])

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put("")
