"""A connection that the server has ended: the next call of every public sync method connects anew."""

from __future__ import annotations

import datetime as dt
import inspect
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connection, connections, transaction
from django.utils import timezone
from rich.progress import Progress

from allowance.models import Account, Block
from allowance.oversight import audit
from allowance.plumbing import connections as renewing
from allowance.service import Allowance
from receipts import receipts
from receipts.models import JobStartedReceipt
from receipts.schemas import JobStarted
from receipts.service import Receipts
from routing import routing
from routing.management.commands import dry_run_routing, prune, void_incidents, void_receipts
from routing.models import MinerIncident
from routing.service import Routing
from routing.types import MinerIncidentType
from routing.upkeep import voiding
from routing.upkeep.journal import export, replay
from tests.backends import backend_pid
from tests.factories import EXECUTOR_CLASS, job_request, run_command
from tests.faults.events import kill_connections
from tests.ledgers import CLASS, FIRST_BLOCK, fill_ledger

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


@pytest.fixture
def no_autocommit() -> Iterator[None]:
    connection.set_autocommit(False)
    yield
    connection.close()


@postgresql
@pytest.mark.usefixtures("anna", "no_autocommit")
def test_a_transaction_of_the_caller_that_broke_is_not_passed_over() -> None:
    Block.objects.filter(number=FIRST_BLOCK).update(stake_share=0.25)
    end_session()
    for _ in range(2):
        with pytest.raises(OperationalError):
            Allowance().get_current_block()


@pytest.mark.usefixtures("anna", "no_autocommit")
def test_a_transaction_of_the_caller_that_works_goes_on() -> None:
    Block.objects.filter(number=FIRST_BLOCK).update(stake_share=0.25)
    Allowance().get_current_block()
    connection.rollback()
    assert not Block.objects.filter(stake_share=0.25).exists()


@postgresql
@pytest.mark.usefixtures("anna")
def test_control_without_renewal_no_call_ever_connects_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewing, "renew_connection", lambda: None)
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


@postgresql
@pytest.mark.usefixtures("anna")
@pytest.mark.parametrize("name", ["prune", "dry_run_routing", "explain_job", "routing_status", "reservations"])
def test_a_command_that_a_living_process_calls_connects_anew(name: str) -> None:
    more = {
        "dry_run_routing": ("--executor-class", CLASS, "--seconds", "5"),
        "explain_job": (str(UUID(int=1)),),
        "routing_status": ("--format", "json"),
    }
    before = run_command(name, *more.get(name, ())).code
    end_session()
    assert run_command(name, *more.get(name, ())).code == before


@postgresql
@pytest.mark.usefixtures("anna")
@pytest.mark.parametrize("name", ["_check_declared", "_check_account"])
def test_a_check_of_the_ledger_goes_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Account.objects.update(held=4)
    original = getattr(audit, name)

    def ended(*args: Any) -> Any:
        found = original(*args)
        transaction.on_commit(end_session)
        return found

    monkeypatch.setattr(audit, name, ended)
    assert run_command("check_ledger").code == 1
    assert run_command("check_ledger", "--repair").code == 0


def end_sessions_after(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
    """End the session after each call of a function, or after each item of a generator."""
    function = getattr(owner, name)

    def items(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for item in function(*args, **kwargs):
            end_session()
            yield item

    def called(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        end_session()
        return result

    monkeypatch.setattr(owner, name, items if inspect.isgeneratorfunction(function) else called)


@postgresql
@pytest.mark.usefixtures("anna")
def test_a_dry_run_of_many_jobs_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text("".join(f"{job_request().model_dump_json()}\n" for _ in range(3)))
    end_sessions_after(monkeypatch, dry_run_routing, "decide")
    assert run_command("dry_run_routing", "--jobs", str(jobs)).code == 0


@postgresql
@pytest.mark.usefixtures("anna")
def test_voiding_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    User.objects.create_superuser("boss")
    for _ in range(3):
        routing().report_incident(MinerIncidentType.MINER_JOB_FAILED, "anna", job_request().uuid, EXECUTOR_CLASS)
        receipts().record(**ARGUMENTS["record"]())
    monkeypatch.setattr(voiding, "VOIDED_AT_ONCE", 1)
    end_sessions_after(monkeypatch, void_incidents, "void_for")
    end_sessions_after(monkeypatch, void_receipts, "void_receipts_for")
    said = ("--miner", "anna", "--by", "boss", "--reason", "an outage", "--yes")
    assert run_command("void_incidents", *said).code == 0
    connection.close()  # the last one was ended too
    assert run_command("void_receipts", *said).code == 0
    connection.close()
    assert not MinerIncident.objects.filter(voided_at=None).exists()
    assert not JobStartedReceipt.objects.filter(voided_at=None).exists()


@postgresql
def test_pruning_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    fill_ledger("anna", blocks=2)
    for _ in range(3):
        routing().report_incident(MinerIncidentType.MINER_JOB_FAILED, "anna", job_request().uuid, EXECUTOR_CLASS)
    MinerIncident.objects.update(timestamp=timezone.now() - dt.timedelta(days=500))
    end_sessions_after(monkeypatch, Progress, "update")
    end_sessions_after(monkeypatch, prune, "kinds")
    assert run_command("prune", "--dry-run").code == 0
    connection.close()
    assert run_command("prune").code == 0
    connection.close()
    assert not MinerIncident.objects.exists()
