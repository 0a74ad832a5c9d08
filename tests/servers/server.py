"""The project, served as it is in production: by a process of its own, on a free port of this host."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from http import HTTPStatus
from http.client import HTTPConnection

from tests.programs import DEADLINE, Program

UVICORN = ("uvicorn", "--host", "127.0.0.1", "--port", "0", "--lifespan", "off")
DAPHNE = ("daphne", "--bind", "127.0.0.1", "--port", "0")
LISTENS = r"(?:Uvicorn running on http://|Listening on TCP address )127\.0\.0\.1:(\d+)"

UNBOUNDED = {
    "ROUTING_SOCKET_IN_FLIGHT": 1000,
    "ROUTING_SOCKET_IN_FLIGHT_EACH": 1000,
    "ROUTING_SOCKET_MESSAGES_PER_SECOND": 1_000_000,
    "ROUTING_CLIENT_MESSAGES_PER_SECOND": 1_000_000,
    "ROUTING_CLIENT_REFUSALS_PER_MINUTE": 1_000_000,
}
"""The settings of a server that takes all that one client of a test sends."""

TROUBLE = re.compile(r"^.*\b(?:ERROR|CRITICAL)\b.*|^Traceback.*", re.MULTILINE)


class Server(Program):
    """A server of the test's database, in an `environment` of its own, on a free port of this host.

    It finds its port itself and says so in its log: no two of them ever race for one.
    """

    def __init__(self, *program: str, **environment: object) -> None:
        self.port = 0
        usual = {"DJANGO_SETTINGS_MODULE": "project.settings", "LOG_LEVEL": "INFO", "SECURE_SSL_REDIRECT": "0"}
        command = sys.executable, "-m", "tests.servers.leashed", *program, "project.asgi:application"
        super().__init__(*command, environment={**usual, **environment})

    @property
    def troubles(self) -> list[str]:
        """The lines of its log that nobody wants to see."""
        return TROUBLE.findall(self.log)

    def await_start(self) -> None:
        """Wait until it says that it is healthy."""
        self.port = int(self.await_log(LISTENS)[1])
        self.get("/healthz")

    def get(self, path: str, token: str = "") -> str:
        """Return a page that there must be, as the holder of a token sees it."""
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)) as http:
            http.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
            response = http.getresponse()
            page = response.read().decode()
        assert response.status == HTTPStatus.OK, page
        return page


@contextmanager
def servers(number: int, program: Sequence[str] = UVICORN, /, **environment: object) -> Iterator[list[Server]]:
    """Serve the project with so many processes, all in the same `environment`."""
    with ExitStack() as stack:
        started = [stack.enter_context(Server(*program, **environment)) for _ in range(number)]
        for server in started:
            server.await_start()
        yield started
