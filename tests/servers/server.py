"""The project, served as it is in production: by a process of its own, on a free port of this host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryFile
from urllib.parse import quote, urlencode

from django.db import connection

from tests.programs import DEADLINE

ROOT = Path(__file__).parents[2]

UVICORN = ("uvicorn", "--host", "127.0.0.1", "--port", "0", "--lifespan", "off")
DAPHNE = ("daphne", "--bind", "127.0.0.1", "--port", "0")
LISTENS = re.compile(r"(?:Uvicorn running on http://|Listening on TCP address )127\.0\.0\.1:(\d+)")

UNBOUNDED = {
    "ROUTING_SOCKET_IN_FLIGHT": 1000,
    "ROUTING_SOCKET_IN_FLIGHT_EACH": 1000,
    "ROUTING_SOCKET_MESSAGES_PER_SECOND": 1_000_000,
    "ROUTING_CLIENT_MESSAGES_PER_SECOND": 1_000_000,
    "ROUTING_CLIENT_REFUSALS_PER_MINUTE": 1_000_000,
}
"""The settings of a server that takes all that one client of a test sends."""

TROUBLE = re.compile(r"^.*\b(?:ERROR|CRITICAL)\b.*|^Traceback.*", re.MULTILINE)

GRACE = DEADLINE
"""Seconds that a server has to end in good order."""


class Server:
    """A server of the test's database, in an `environment` of its own, on a free port of this host.

    It finds its port itself and says so in its log: no two of them ever race for one. `end` it, whatever happens.
    """

    def __init__(self, *program: str, **environment: object) -> None:
        self.port = 0
        self.file = TemporaryFile()  # noqa: SIM115 (it lives as long as the process)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.servers.leashed", *program, "project.asgi:application"],
            cwd=ROOT,
            env={
                **os.environ,
                "DJANGO_SETTINGS_MODULE": "project.settings",
                "DATABASE_URL": database_url(),
                "LOG_LEVEL": "INFO",
                "SECURE_SSL_REDIRECT": "0",
                **{name: str(value) for name, value in environment.items()},
            },
            stdin=subprocess.PIPE,
            stdout=self.file,
            stderr=subprocess.STDOUT,
        )

    @property
    def log(self) -> str:
        """All that it has written so far."""
        file = self.file.fileno()
        return os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace")

    @property
    def troubles(self) -> list[str]:
        """The lines of its log that nobody wants to see."""
        return TROUBLE.findall(self.log)

    def await_start(self) -> None:
        """Wait until it says that it is healthy, at the latest after DEADLINE."""
        deadline = time.monotonic() + DEADLINE
        while not (found := LISTENS.search(self.log)):
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)
        self.port = int(found[1])
        self.get("/healthz")

    def get(self, path: str, token: str = "") -> str:
        """Return a page that there must be, as the holder of a token sees it."""
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)) as http:
            http.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
            response = http.getresponse()
            page = response.read().decode()
        assert response.status == HTTPStatus.OK, page
        return page

    def end(self) -> None:
        """Tell it to end, if it has not, and wait until nothing of it is left."""
        with self.file:
            self.process.terminate()
            try:
                self.process.wait(GRACE)
            finally:
                self.process.kill()
                with self.process:  # closes the pipe and waits
                    pass


@contextmanager
def servers(number: int, program: Sequence[str] = UVICORN, /, **environment: object) -> Iterator[list[Server]]:
    """Serve the project with so many processes, all in the same `environment`."""
    with ExitStack() as stack:
        started = []
        for _ in range(number):
            started.append(Server(*program, **environment))
            stack.callback(started[-1].end)
        for server in started:
            server.await_start()
        yield started


def database_url() -> str:
    """Return the URL of the database that this connection is to, which is the test's."""
    at = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{quote(str(at['NAME']))}"
    place = {"host": at["HOST"], "port": at["PORT"], **at["OPTIONS"]}
    query = urlencode({name: value for name, value in place.items() if value})
    return f"postgres://{quote(at['USER'], safe='')}:{quote(at['PASSWORD'], safe='')}@/{quote(at['NAME'])}?{query}"
