"""A program that picks and then forks: `python -m tests.faults.forking DATABASE`. The child picks, then the parent.

Each prints whose sessions with the server it used, of its own thread and of its pool's, and which reservations it made.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import django
from django.conf import settings

settings.DATABASES["default"].update(json.loads(sys.argv[1]))
settings.ALLOWANCE_THREADS = 1
django.setup()

from asgiref.sync import async_to_sync  # noqa: E402
from django.db import connections  # noqa: E402

from allowance.plumbing.threads import close_database_pool, in_database_thread  # noqa: E402
from routing import routing  # noqa: E402
from tests.factories import job_request  # noqa: E402
from tests.faults.events import backend_pid  # noqa: E402
from tests.programs import DEADLINE, say  # noqa: E402


def work() -> dict[str, object]:
    """Pick in this thread and in the pool's."""
    routes = [routing().pick(job_request()), async_to_sync(routing().pick_miner_for_job_request)(job_request())]
    sessions = [backend_pid(), async_to_sync(in_database_thread(backend_pid))()]
    return {"reservations": [route.allowance_reservation_id for route in routes], "sessions": sessions}


def main() -> None:
    say(work())
    pid = os.fork()
    signal.alarm(round(DEADLINE))  # a child that hangs would keep the test's pipe open
    if pid:
        _, status = os.waitpid(pid, 0)
        say(status)
    say(work())
    close_database_pool()
    connections.close_all()


if __name__ == "__main__":
    main()
