from __future__ import annotations

import datetime as dt
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import TransactionTestCase
from django.utils import timezone
from hypothesis import settings
from time_machine import escape_hatch

from allowance import clock
from allowance.oversight.audit import check_ledger
from routing.decision import reading
from routing.decision.book import LiveBook
from tests.factories import empty_tables
from tests.threads import close_database_pool

if TYPE_CHECKING:
    from execnet import Gateway

settings.register_profile("usual", deadline=None)  # how fast something is is for the benchmark to say
settings.register_profile("ci", settings.get_profile("usual"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "usual")


MARKS = {
    "browser": pytest.mark.browser,
    "concurrency": pytest.mark.races,
    "faults": pytest.mark.faults,
    "host": pytest.mark.slow,
    "live": pytest.mark.live,
    "properties": pytest.mark.slow,
    "servers": pytest.mark.servers,
}
"""The mark of all tests in a folder."""

SLOW = {
    "test_admin",
    "test_database_checks",
    "test_exit_codes",
    "test_permissions",
    "test_strict_lists",
    "test_taking_over",
}
"""Modules of quick folders that together take as long as all others there: they start programs, or open every page."""

ONCE = {"test_exit_codes", "test_permissions", "test_serve", "test_wheel"}
"""Modules whose tests do not depend on the database. They are skipped on PostgreSQL."""

workers: list[int] = []
"""The processes of xdist's workers, in the process that hands out the tests."""


def pytest_configure() -> None:
    """Take SIGTERM for Ctrl-C, in xdist's workers too: else a test's servers and the databases would stay behind."""
    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a script: programs would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of a folder. An item of `make check` has none of these marks."""
    for item in items:
        if mark := MARKS.get(item.path.parent.name):
            item.add_marker(mark)
        if item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)
        if (
            item.path.stem in ONCE
            and item.path.parent.name != "browser"
            and connections["default"].vendor == "postgresql"
        ):
            item.add_marker(pytest.mark.skip(reason="does not depend on the database: tested on SQLite"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_newgateway(gateway: Gateway) -> None:
    channel = gateway.remote_exec("import os; channel.send(os.getpid())")
    workers.append(channel.receive())
    channel.waitclose()


def interrupt(*_: object) -> None:
    # Whoever ends a whole process group is heard twice, and xdist gets impatient: that would cut the cleaning up short.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    for worker in workers:  # xdist itself would let the tests go on for 5 s, and kill the workers soon after
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGTERM)
    raise KeyboardInterrupt


@pytest.fixture(autouse=True, scope="session")
def pool_closed_at_the_end(django_db_setup: None) -> Iterator[None]:
    """PostgreSQL drops a test database only when nobody is connected to it."""
    yield
    close_database_pool()


@pytest.fixture(autouse=True, scope="session")
def tables_are_emptied_row_by_row() -> Iterator[None]:
    """Django truncates all tables after a test and makes all permissions anew: ten times as long as what was tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", lambda _case: empty_tables())
        yield


@pytest.fixture(autouse=True, scope="session")
def no_cursor_outlives_its_transaction() -> Iterator[None]:
    """A pooler that grants connections for a transaction, as PgBouncer may, loses the server's cursor after it."""
    backend: Any = type(connections["default"])
    chunked_cursor = backend.chunked_cursor

    def guarded(wrapper: BaseDatabaseWrapper) -> object:
        assert wrapper.in_atomic_block or wrapper.vendor == "sqlite", "QuerySet.iterator outside reading_transaction"
        return chunked_cursor(wrapper)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "chunked_cursor", guarded)
        yield


@pytest.fixture(autouse=True, scope="session")
def the_clock_can_be_pinned() -> Iterator[None]:
    """The server's clock does not stand still with `time_machine`, so the one clock follows that instead."""
    by_server = clock.now

    def now(using: str | None = None, **read: Any) -> dt.datetime:
        return timezone.now() if escape_hatch.is_travelling() else by_server(using, **read)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "now", now)
        yield


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    """Forget what the process has read: after a test its rows are deleted."""
    reading.forget()
    LiveBook.crowded = False


@pytest.fixture
def ledger_clean_at_the_end(transactional_db: None) -> Iterator[None]:
    """For tests that touch the ledger: whatever they did, it must agree with its history."""
    yield
    assert list(check_ledger()) == []
