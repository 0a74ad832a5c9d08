"""What a router does that picks and then forks: the child picks, then the parent.

Each says whose sessions with the server it used, of its own thread and of its pool's, and which reservations it made.
"""

from __future__ import annotations

import os
import signal
import sys

from asgiref.sync import async_to_sync
from django.db import connections

from allowance.plumbing.threads import in_database_thread
from routing import routing
from tests.backends import backend_pid
from tests.factories import job_request
from tests.programs import DEADLINE, say
from tests.threads import close_database_pool


def work() -> None:
    """Pick in this thread and in the pool's."""
    routes = [routing().pick(job_request()), async_to_sync(routing().pick_miner_for_job_request)(job_request())]
    sessions = [backend_pid(), async_to_sync(in_database_thread(backend_pid))()]
    say({"reservations": [route.allowance_reservation_id for route in routes], "sessions": sessions})


def do(_: str) -> int:
    """Return how the child ended."""
    work()
    child = os.fork()
    signal.alarm(round(DEADLINE))  # a child that hangs would keep the test's pipe open
    status = os.waitpid(child, 0)[1] if child else 0
    work()
    close_database_pool()
    connections.close_all()
    if not child:
        sys.exit()
    return status
