"""What happens to connections to a PostgreSQL server, and how to wait for it."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing

from django.db import connection

from tests.backends import wait_until_gone


def backends_of(application: str) -> list[int]:
    """Return the processes that serve an application's connections to this database."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s",
            [application],
        )
        return [pid for (pid,) in cursor.fetchall()]


def kill_connections(pids: Collection[int]) -> None:
    """Kill the connections that these processes serve, and wait until they are gone.

    One by one: as a condition of a query, the function may be called for every connection of the server.
    """
    with closing(connection.copy()) as other:  # one of its own, because this thread's may be the one to kill
        with other.cursor() as cursor:
            for pid in pids:
                cursor.execute("SELECT pg_terminate_backend(%s)", [pid])
        wait_until_gone(pids, other)
