"""Programs that a test starts: each a fresh interpreter, spoken with in lines of JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from queue import Queue
from threading import Thread
from typing import Any

DEADLINE = 900.0
"""Seconds after which a test takes what it waits for to hang. It measures nothing: a busy machine takes less.

All waits of the tests are bounded by this one, so that no test depends on the machine's speed.
"""


def say(word: object) -> None:
    """Print a line for whoever started this program."""
    sys.stdout.write(json.dumps(word) + "\n")
    sys.stdout.flush()


class Program:
    """`python -m MODULE ARGUMENTS`, with more in its environment than this process has. `end` it, whatever happens."""

    def __init__(self, module: str, *arguments: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ) | environment,
        )
        self.lines: Queue[str] = Queue()
        self.reader = Thread(target=self._read, daemon=True)
        self.reader.start()

    def say(self, request: object) -> None:
        """Send a line, which the program waits for."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        """Return what the program says next. An end without a word is an error."""
        line = self.lines.get(timeout=DEADLINE)
        assert line, "the program has ended; its last words are on stderr"
        return json.loads(line)

    def end(self) -> None:
        """Kill it, and wait until nothing of it is left."""
        self.process.kill()
        self.reader.join(DEADLINE)
        with self.process:  # closes the pipes and waits
            pass

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put("")
