"""PostgreSQL's own processes, one for each connection."""

from __future__ import annotations

import time
from collections.abc import Collection

from django.db import connection
from django.db.backends.base.base import BaseDatabaseWrapper

from tests.programs import DEADLINE


def wait_until_gone(pids: Collection[int], using: BaseDatabaseWrapper | None = None) -> None:
    """Wait until none of these processes is left: then their locks are gone and their statistics are in.

    The server notices by itself that a client is dead. `using` is the connection to ask by, else this thread's.
    """
    deadline = time.monotonic() + DEADLINE
    with (using or connection).cursor() as cursor:
        while True:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s)", [list(pids)])
            if not cursor.fetchone()[0]:
                return
            assert time.monotonic() < deadline, f"processes {pids} of the server outlive their clients"
            time.sleep(0.0005)
