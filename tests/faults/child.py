"""What a router does that faults happen to: an operation, with Django's care for old connections, as in a web request.

With `die_at=K` a fork does it, and kills itself with SIGKILL at the K-th moment (see `tests.faults.moments`); 0 is
never.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any, NoReturn

from django.db import close_old_connections, connections

from allowance.types import RESERVATION_ID_BITS
from tests.backends import backend_pid
from tests.faults.moments import AFTER_COMMIT, each_moment
from tests.faults.operations import OPERATIONS, Scene


def do(operation: str, *, die_at: int | None = None, **scene: Any) -> dict[str, Any]:
    call = partial(OPERATIONS[operation], Scene(**scene))
    return do_here(call) if die_at is None else do_in_fork(call, die_at)


def do_here(operation: Callable[[], object]) -> dict[str, object]:
    close_old_connections()
    try:
        return {"result": operation()}
    except Exception as error:
        return {"error": type(error).__name__, "text": str(error)}
    finally:
        close_old_connections()


def do_in_fork(operation: Callable[[], object], die_at: int) -> dict[str, Any]:
    """Do it in a fork, and return its last words, and whether SIGKILL ended it."""
    connections.close_all()  # a connection serves one process only
    hearing, telling = os.pipe()
    pid = os.fork()
    if not pid:
        live(operation, die_at, telling)
    os.close(telling)
    with open(hearing) as pipe:
        words = json.loads(pipe.read())
    _, status = os.waitpid(pid, 0)
    return {**words, "killed": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL}


def live(operation: Callable[[], object], die_at: int, telling: int) -> NoReturn:
    """Do it, up to the moment to die; the last words are what happened until then.

    Every fork draws the same reservation ids, so that what they store can be compared; versions are drawn as ever.
    """
    randbits, ids = secrets.randbits, Random(1)
    secrets.randbits = lambda k: (ids.getrandbits if k == RESERVATION_ID_BITS else randbits)(k)
    moments: list[str] = []

    def last_words(**more: object) -> None:
        words = {"moments": moments, "commits": moments.count(AFTER_COMMIT), "backend": backend_pid(), **more}
        os.write(telling, json.dumps(words).encode())

    def happen(moment: str) -> None:
        moments.append(moment)
        if len(moments) == die_at:
            last_words()
            os.kill(os.getpid(), signal.SIGKILL)

    with each_moment(happen):
        last_words(**do_here(operation))
    os._exit(0)
