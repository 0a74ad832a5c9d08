"""Programs that a test starts: what they print, how they end, and what is said with them.

`python -m tests.programs MODULE` is a worker. It reads lines of JSON, each an operation and its arguments, calls the
module's `do` with them, and prints `{"answer": …}`. Before that, `do` may `say` other words.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from importlib import import_module
from pathlib import Path
from queue import Queue
from tempfile import TemporaryFile
from threading import Thread
from typing import IO, Any, NamedTuple, Self, TypeVar
from urllib.parse import quote, urlencode

import django
from django.db import connection

T = TypeVar("T")

ROOT = Path(__file__).parents[1]

DEADLINE = 900.0
"""Seconds after which a test takes what it waits for to hang. It measures nothing: a busy machine takes less.

All waits of the tests are bounded by this one, so that no test depends on the machine's speed.
"""


class Died(AssertionError):
    """Say that a program has ended without a word, and what it printed last."""

    def __init__(self, printed: str) -> None:
        super().__init__(f"The program has ended. It printed last:\n{printed[-10_000:]}")


class Finished(NamedTuple):
    """How a command ended, what it printed, and what it complained about."""

    code: int
    out: str
    err: str


class Program:
    """A command on the test's database, in the repository's folder. `end` it, whatever happens, or use `with`.

    `environment` is added to that of this process. `out` and `err` are where it prints to, if not to files of its own.
    """

    def __init__(
        self,
        *command: object,
        environment: Mapping[str, object] = {},
        cwd: Path = ROOT,
        out: int | None = None,
        err: int | None = None,
    ) -> None:
        given = {"DJANGO_SETTINGS_MODULE": "tests.settings", **environment}
        if "DATABASE_URL" not in given:
            given["DATABASE_URL"] = database_url()
        self._out, self._err = TemporaryFile(), TemporaryFile()  # noqa: SIM115 (they live as long as the process)
        self.process = subprocess.Popen(
            list(map(str, command)),
            cwd=cwd,
            env={**os.environ, **{name: str(value) for name, value in given.items()}},
            stdin=subprocess.PIPE,
            stdout=self._out if out is None else out,
            stderr=self._err if err is None else err,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def say(self, word: object) -> None:
        """Send a line, which the program waits for."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # whoever listens to it hears why
            self.process.stdin.write(json.dumps(word).encode() + b"\n")
            self.process.stdin.flush()

    @property
    def log(self) -> str:
        """All that it has printed to its files so far."""
        return _read(self._out) + _read(self._err)

    def until(self, condition: Callable[[], T | None]) -> T:
        """Wait until something is so, and return it. Raises Died if the program ends before."""

        def ask() -> T | None:
            ended = self.process.poll() is not None
            answer = condition()
            if ended and not answer:
                raise Died(self.log)
            return answer

        return wait_until(ask)

    def await_log(self, pattern: str) -> re.Match[str]:
        """Wait until it has printed a pattern, and return what matched."""
        return self.until(lambda: re.search(pattern, self.log, re.MULTILINE))

    def finish(self) -> Finished:
        """Let it come to its end, with no more input, and return how that was."""
        with self:
            assert self.process.stdin is not None
            with suppress(BrokenPipeError):
                self.process.stdin.close()
            code = self.process.wait(DEADLINE)
            return Finished(code, _read(self._out), _read(self._err))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal, and return the exit code once it has ended."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)

    def end(self) -> None:
        """Tell it to end, if it has not, and wait until nothing of it is left."""
        try:
            self.stop()
        finally:
            self.process.kill()
            with closing(self._out), closing(self._err), suppress(BrokenPipeError), self.process:
                pass  # which closes the pipes and waits


class Worker(Program):
    """A fresh interpreter that does what it is told. It is `busy` as long as it owes an answer."""

    def __init__(self, module: str, **environment: object) -> None:
        super().__init__(sys.executable, "-m", __name__, module, environment=environment, out=subprocess.PIPE)
        self.busy = False
        self.lines: Queue[bytes] = Queue()
        self.reader = Thread(target=self._listen, daemon=True)
        self.reader.start()

    def tell(self, operation: str, **how: object) -> None:
        """Tell it to do something."""
        self.busy = True
        self.say([operation, how])

    def ask(self, operation: str, **how: object) -> Any:
        """Let it do something, and return the answer."""
        self.tell(operation, **how)
        return self.answer()

    def answer(self, note: Callable[[Any], object] | None = None) -> Any:
        """Return the answer to what it was told. `note` takes the words before it; without one there must be none."""
        while "answer" not in (word := self.hear()):
            assert note, f"{word} is no answer"
            note(word)
        self.busy = False
        return word["answer"]

    def hear(self, patience: float | None = DEADLINE) -> Any:
        """Return what the program says next. Raises Died if it has ended without a word."""
        line = self.lines.get(timeout=patience)
        if not line:
            self.lines.put(line)  # so that whoever asks again hears the same
            raise Died(self.log)
        return json.loads(line)

    def end(self) -> None:
        """Kill it, and wait until nothing of it is left."""
        self.process.kill()
        self.reader.join(DEADLINE)
        super().end()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(b"")


def wait_until(condition: Callable[[], T | None], pause: float = 0.01) -> T:
    """Ask again and again until the answer is true, and return it; that must come."""
    deadline = time.monotonic() + DEADLINE
    while not (answer := condition()):
        assert time.monotonic() < deadline, "what a test waits for does not come"
        time.sleep(pause)
    return answer


def say(word: object) -> None:
    """Print a line for whoever started this program."""
    sys.stdout.write(json.dumps(word) + "\n")
    sys.stdout.flush()


def database_url() -> str:
    """Return the URL of the database that this connection is to, which is the test's."""
    at = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{quote(str(at['NAME']))}"
    named = {name.lower(): at[name] for name in ("HOST", "PORT") if at[name]}
    query = urlencode({**at["OPTIONS"], **named})
    return f"postgres://{quote(at['USER'], safe='')}:{quote(at['PASSWORD'], safe='')}@/{quote(at['NAME'])}?{query}"


def _read(file: IO[bytes]) -> str:
    number = file.fileno()
    return os.pread(number, os.fstat(number).st_size, 0).decode(errors="backslashreplace")


def main(module: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it, too
    django.setup()
    do = import_module(module).do
    for line in iter(sys.stdin.readline, ""):
        operation, how = json.loads(line)
        say({"answer": do(operation, **how)})


if __name__ == "__main__":
    main(sys.argv[1])
