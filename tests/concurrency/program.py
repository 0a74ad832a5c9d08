"""A process of its own that a test tells what to do, in lines of JSON: `python -m tests.concurrency.program DATABASE`.

`{"do": OPERATION, "how": {…}}` is answered with the operation's words, a line each, and `"over"`. With `"stop": "before
MODULE.FUNCTION"` (or `after`) it stops there, once, says so, and goes on when it gets a line. With `"without": LOCK` it
does without that lock.
"""

from __future__ import annotations

import itertools
import json
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import django
from django.conf import settings

settings.DATABASES["default"]["NAME"] = sys.argv[1]
django.setup()

from django.db import connection  # noqa: E402
from django.test import override_settings  # noqa: E402

from allowance import chain, reservations  # noqa: E402
from allowance.oversight import audit, pruning  # noqa: E402
from routing.decision import book  # noqa: E402
from tests.concurrency import campaign, operations  # noqa: E402
from tests.factories import read_account  # noqa: E402
from tests.programs import say  # noqa: E402

OPERATIONS = {**operations.OPERATIONS, **campaign.OPERATIONS}


def main() -> None:
    say({"backend": backend()})
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        with ExitStack() as changes:
            changes.enter_context(override_settings(ALLOWANCE_LOCK_TIMEOUT=request["patience"]))
            if request["without"]:
                changes.enter_context(doing_without(request["without"]))
            if request["stop"]:
                changes.enter_context(stopping(*request["stop"].split()))
            for word in OPERATIONS[request["do"]](**request["how"]):
                say(word)
        say("over")


def backend() -> int | None:
    """Return what this process is called among those that PostgreSQL has waiting for each other."""
    if connection.vendor != "postgresql":
        return None
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        pid: int = cursor.fetchone()[0]
    return pid


STAND_INS: dict[str, Callable[..., object]] = {
    "lock_account": read_account,
    "lock_accounts_of": lambda _: None,
    "lock_chain": lambda: None,
    "chain_changed": lambda: None,
}


@contextmanager
def doing_without(lock: str) -> Iterator[None]:
    """Put what reads the same, without the lock, in its place everywhere."""
    taken = [lock, "chain_changed"] if lock == "lock_chain" else [lock]  # it writes the row that is the lock
    with ExitStack() as changes:
        for module, name in itertools.product((audit, book, chain, pruning, reservations), taken):
            if hasattr(module, name):
                changes.enter_context(mock.patch.object(module, name, STAND_INS[name]))
        yield


@contextmanager
def stopping(when: str, where: str) -> Iterator[None]:
    """Stop the first time that the function is called, before or after it has done its work."""
    function: Callable[..., Any] = pkgutil.resolve_name(where)
    stops = iter([f"{when} {where}"])

    def stop() -> None:
        for place in stops:
            say({"stopped": place})
            sys.stdin.readline()

    def stopped(*args: object, **kwargs: object) -> object:
        if when == "before":
            stop()
        outcome = function(*args, **kwargs)
        if when == "after":
            stop()
        return outcome

    with mock.patch(where, stopped):
        yield


if __name__ == "__main__":
    main()
