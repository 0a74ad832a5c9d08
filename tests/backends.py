"""PostgreSQL's own processes, one for each connection."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django.db import connection
from django.db.backends.base.base import BaseDatabaseWrapper

from tests.programs import wait_until


def backend_pid() -> int | None:
    """Return the process that serves this thread's connection; SQLite has none."""
    server: Any = connection.connection if connection.vendor == "postgresql" else None
    pid: int | None = server and server.info.backend_pid
    return pid


def wait_until_gone(pids: Collection[int], using: BaseDatabaseWrapper | None = None) -> None:
    """Wait until none of these processes is left: then their locks are gone and their statistics are in.

    The server notices by itself that a client is dead. `using` is the connection to ask by, else this thread's.
    """
    with (using or connection).cursor() as cursor:

        def are_gone() -> bool:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s)", [list(pids)])
            return not cursor.fetchone()[0]

        wait_until(are_gone, pause=0.0005)
