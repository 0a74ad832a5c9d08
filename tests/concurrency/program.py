"""What a worker of the races does: operations, on the way of which it may stop, and without a lock if it is told so.

With `stop="before MODULE.FUNCTION"` (or `after`) it stops there, once, says so, and goes on when it gets a line.
"""

from __future__ import annotations

import itertools
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from django.db import connection
from django.test import override_settings

from allowance import chain, reservations
from allowance.models import Account
from allowance.oversight import audit, pruning
from allowance.plumbing.compiled import Compiled, parameter, updating
from allowance.plumbing.transactions import ThisTransaction
from routing.decision import book
from tests.backends import backend_pid
from tests.concurrency import campaign, operations
from tests.factories import read_account
from tests.programs import DEADLINE, say

OPERATIONS: dict[str, Callable[..., Any]] = {**operations.OPERATIONS, **campaign.OPERATIONS}


def do(operation: str, *, stop: str = "", without: str = "", patience: float = DEADLINE, **how: object) -> Any:
    with ExitStack() as changes:
        changes.enter_context(override_settings(ALLOWANCE_LOCK_TIMEOUT=patience))
        if without:
            changes.enter_context(doing_without(without))
        if stop:
            changes.enter_context(stopping(*stop.split()))
        book.LiveBook.crowded = False  # what it was before must not decide how a pick goes
        answer = OPERATIONS[operation](**how)
        return list(answer) if isinstance(answer, Iterator) else answer


def name_connection() -> int | None:
    """Return what this process is called among those that PostgreSQL has waiting for each other."""
    connection.ensure_connection()
    return backend_pid()


OPERATIONS["name_connection"] = name_connection

ACCOUNT = Account.objects.filter(pk=parameter(Account, "id"))
CHANGES = {name: parameter(Account, name) for name in ("base", "held", "spent", "version")}

UNCONDITIONALLY = Compiled(lambda: updating(ACCOUNT, **CHANGES, changed=ThisTransaction()))

STAND_INS: dict[str, object] = {
    "lock_account": read_account,
    "STORE": UNCONDITIONALLY,
    "STORE_HELD": UNCONDITIONALLY,
    "lock_accounts_of": lambda _: None,
    "lock_chain": lambda: None,
    "chain_changed": lambda: None,
}


@contextmanager
def doing_without(lock: str) -> Iterator[None]:
    """Replace a lock everywhere by a function that reads or writes the same without it."""
    # The chain's version is in the row that is its lock. An account is also guarded by the version that was read.
    taken = {"lock_chain": [lock, "chain_changed"], "lock_account": [lock, "STORE", "STORE_HELD"]}.get(lock, [lock])
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
