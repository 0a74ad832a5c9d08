"""A connection that the server has ended: the next call of every public sync method connects anew."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.db import OperationalError, connection, connections
from django.utils import timezone

import allowance.connections
import receipts.connections
from allowance.models import Block
from allowance.service import Allowance
from receipts.schemas import JobStarted
from receipts.service import Receipts
from routing.journal import export, replay
from routing.service import Routing
from tests.factories import CLASS, FIRST_BLOCK, fill_ledger, job_request
from tests.faults.events import backend_pid, kill_connections

pytestmark = pytest.mark.django_db(transaction=True)

postgresql = pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no connection that could break")

METHODS = [
    pytest.param(service, name, id=f"{service.__name__}.{name}")
    for service in (Allowance, Receipts, Routing)
    for name, method in inspect.getmembers(service, inspect.isfunction)
    if not name.startswith("_") and not inspect.iscoroutinefunction(method)
]

SECONDS: dict[str, Any] = {"executor_class": CLASS, "allowance_seconds": 6, "job_start_block": FIRST_BLOCK + 20}
NEXT_BLOCK = FIRST_BLOCK + 21


def reserved() -> int:
    return Allowance().reserve_allowance(miner="anna", **SECONDS)[0]


ARGUMENTS: dict[str, Callable[[], dict[str, Any]]] = {
    "find_miners_with_allowance": lambda: SECONDS,
    "reserve_allowance": lambda: {"miner": "anna", **SECONDS},
    "spend_allowance": lambda: {"reservation_id": reserved()},
    "undo_allowance_reservation": lambda: {"reservation_id": reserved()},
    "get_current_block": dict,
    "get_manifests": dict,
    "miners": dict,
    "record_block": lambda: {"number": NEXT_BLOCK, "timestamp": timezone.now(), "stake_share": 0.5},
    "record_manifests": lambda: {"block": NEXT_BLOCK, "axons": {}, "executors": {}},
    "record_collateral": lambda: {"hotkey": "anna", "wei": 1},
    "record": lambda: {
        "receipt": JobStarted(
            job_uuid=UUID(job_request().uuid),
            miner_hotkey="anna",
            validator_hotkey="validator",
            timestamp=timezone.now(),
            executor_class=CLASS,
            ttl=60,
        )
    },
    "get_busy_executor_count": lambda: {"executor_class": CLASS, "at_time": timezone.now()},
    "pick": lambda: {"request": job_request()},
    "report_incident": lambda: {
        "type": "MINER_JOB_FAILED",
        "hotkey_ss58address": "anna",
        "job_uuid": job_request().uuid,
        "executor_class": CLASS,
    },
}
"""Arguments with which a method succeeds. Another method gets None for each, and may refuse that as bad input."""


def call(service: type, name: str) -> Callable[[], object]:
    """Return the call of a method, prepared before the connection breaks."""
    method = getattr(service(), name)
    if name in ARGUMENTS:
        arguments = ARGUMENTS[name]()
        return lambda: method(**arguments)
    needed = dict.fromkeys(k for k, p in inspect.signature(method).parameters.items() if p.default is p.empty)

    def refuse() -> None:
        with suppress(AttributeError, TypeError, ValueError):
            method(**needed)

    return refuse


@pytest.fixture
def anna() -> Iterator[None]:
    fill_ledger("anna", executors=20)
    yield
    connection.close()


def end_session() -> None:
    """End this thread's session, as a server does that fails over."""
    connection.ensure_connection()
    kill_connections([backend_pid() or 0])


@postgresql
@pytest.mark.usefixtures("anna")
@pytest.mark.parametrize(("service", "name"), METHODS)
def test_the_next_call_connects_anew(service: type, name: str) -> None:
    prepared = call(service, name)
    end_session()
    prepared()
    assert Block.objects.exists()


@postgresql
@pytest.mark.usefixtures("anna")
@pytest.mark.parametrize(("service", "name"), METHODS)
def test_without_health_checks_the_call_after_the_failed_one_connects_anew(
    service: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = call(service, name)
    monkeypatch.setattr(connections["default"], "health_check_enabled", False)
    end_session()
    with pytest.raises(OperationalError):
        Block.objects.exists()
    prepared()
    assert Block.objects.exists()


@postgresql
@pytest.mark.usefixtures("anna")
def test_control_without_renewal_no_call_ever_connects_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance.connections, "renew_connection", lambda: None)
    end_session()
    with pytest.raises(OperationalError):
        Allowance().get_current_block()
    for _ in range(2):
        with pytest.raises(OperationalError, match="connection is closed"):
            Allowance().get_current_block()


@pytest.mark.usefixtures("anna")
def test_a_connection_that_works_stays_however_old() -> None:
    """The caller may be reading from it."""
    connection.ensure_connection()
    before: Any = connection.connection
    connections["default"].close_at = 0.0
    Allowance().get_current_block()
    assert connection.connection is before


@postgresql
@pytest.mark.usefixtures("anna")
def test_a_journal_whose_lines_are_long_in_coming_is_replayed_on_a_new_connection() -> None:
    lines = list(export())

    def slow() -> Iterator[bytes]:
        for line in lines:
            end_session()
            yield line.encode()

    assert len(list(replay(slow(), batch=1))) == len(lines)


def test_the_apps_renew_connections_alike() -> None:
    """Neither of them may import the other."""
    first, second = (
        Path(inspect.getfile(module)).read_text() for module in (allowance.connections, receipts.connections)
    )
    assert first == second
