"""What several tests begin with."""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Iterable, Mapping
from io import StringIO
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import connection, models, transaction
from django.utils import timezone

from allowance import allowance, reservations
from allowance.models import Account
from allowance.types import RESERVATION_ID_BITS, ExecutorClass
from receipts import receipts
from receipts.models import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt, Receipt
from receipts.schemas import JobAccepted, JobFinished, JobStarted
from routing.incidents import record_incident
from routing.models import DecisionRecord, MinerIncident
from routing.requests import V2JobRequest, plain_request

EXECUTOR_CLASS = ExecutorClass.always_on__gpu_24gb
CLASS = EXECUTOR_CLASS.value
OTHER_CLASS = ExecutorClass.always_on__test.value
FIRST_BLOCK = 1000
NEWEST = FIRST_BLOCK + 20
"""The newest block of `fill_ledger`."""

NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
TICK = dt.timedelta(microseconds=1)
SECOND, MINUTE, HOUR, DAY = (dt.timedelta(seconds=n) for n in (1, 60, 3600, 86400))
noon = pytest.mark.time_machine(NOW, tick=False)
"""Lets the clock stand still at NOW, before anything else of a test begins."""

AXON: dict[str, Any] = {"address": "10.0.0.1", "ip_version": 4, "port": 9000}
HTML = "<b>'hot'&amp;</b>"
ESCAPED = "&lt;b&gt;&#x27;hot&#x27;&amp;amp;&lt;/b&gt;"
"""A hotkey that is HTML, and what a page must show of it."""

FAILED, REJECTED, HORDE = "MINER_JOB_FAILED", "MINER_JOB_REJECTED", "MINER_HORDE_FAILED"
RECEIPTS: dict[Any, type[Receipt]] = {
    JobStarted: JobStartedReceipt,
    JobAccepted: JobAcceptedReceipt,
    JobFinished: JobFinishedReceipt,
}
"""The models of receipts, by what is recorded in them."""


def fill_ledger(*hotkeys: str, blocks: int = 21, executors: int = 2) -> None:
    """Record `blocks` blocks of 12 s up to now, in each of which each miner owes us 6 s per executor of CLASS.

    The newest block owes nothing yet. The miners listen at 10.0.0.1, 10.0.0.2, ….
    """
    start = timezone.now() - dt.timedelta(seconds=12 * blocks)
    axons = {name: {"address": f"10.0.0.{i}", "ip_version": 4, "port": 9000} for i, name in enumerate(hotkeys, 1)}
    with transaction.atomic():  # one for all, because most tests begin with this
        for i in range(blocks):
            allowance().record_block(
                number=FIRST_BLOCK + i,
                timestamp=start + dt.timedelta(seconds=12 * i),
                stake_share=0.5,
                hotkeys=hotkeys if i == 0 else None,
            )
        executors_of = {name: {CLASS: executors} for name in hotkeys}
        allowance().record_manifests(block=FIRST_BLOCK, axons=axons, executors=executors_of)


def job_request(seconds: int = 30, **fields: Any) -> V2JobRequest:
    """Return a request for a job of CLASS that may take so long; `fields` overrule, and are not checked."""
    return plain_request(CLASS, 0).model_copy(update={"execution_time_limit": seconds, **fields})


def declare(counts: Mapping[str, int | Mapping[str, int]], block: int = NEWEST, *, asked: Iterable[str] = ()) -> None:
    """Record how many executors miners declare at a block, of CLASS or by class; those `asked` may not answer."""
    executors = {miner: {CLASS: of} if isinstance(of, int) else of for miner, of in counts.items()}
    allowance().record_manifests(block=block, axons=dict.fromkeys([*counts, *asked], AXON), executors=executors)


def mint(number: int, at: dt.datetime = NOW, *, share: float = 0.5, hotkeys: list[str] | None = None) -> None:
    """Record a block."""
    allowance().record_block(number=number, timestamp=at, stake_share=share, hotkeys=hotkeys)


def hold(
    miner: str = "anna", seconds: float = 30, start: int = NEWEST, *, job: UUID | str | None = None
) -> tuple[int, list[int]]:
    """Reserve allowance of CLASS as a router does; return the reservation's id and its blocks."""
    return allowance().reserve_allowance(
        miner=miner, executor_class=CLASS, allowance_seconds=seconds, job_start_block=start, job_uuid=job
    )


def free(seconds: float = 0.001, start: int = NEWEST) -> dict[str, float]:
    """Return the seconds of CLASS that miners have free from a block on, if they are so many."""
    what = {"allowance_seconds": seconds, "executor_class": CLASS, "job_start_block": start}
    return dict(allowance().find_miners_with_allowance(**what))


def reserve(
    miner: str = "anna", seconds: float = 30, *, job: UUID | None = None, now: dt.datetime = NOW, start: int = NEWEST
) -> int:
    """Reserve allowance of CLASS at a time, for a job if one is named; return the reservation's id."""
    return reservations.reserve(
        miner=miner, executor_class=CLASS, seconds=seconds, job_start_block=start, job_uuid=job, now=now
    ).pk


def receipt(kind: Any, job: UUID | str | None = None, miner: str = "anna", at: dt.datetime = NOW, **fields: Any) -> Any:
    """Return a receipt of a kind, written `at` a time; `fields` overrule."""
    sides = {"job_uuid": job or uuid4(), "miner_hotkey": miner, "validator_hotkey": "us", "timestamp": at}
    own: dict[Any, dict[str, Any]] = {
        JobStarted: {"executor_class": CLASS, "ttl": 60},
        JobAccepted: {"time_accepted": at, "ttl": 60},
        JobFinished: {"time_started": at, "time_took_us": 1},
    }
    return kind(**{**sides, **own[kind], **fields})


def receive(kind: Any, job: UUID | str | None = None, miner: str = "anna", **fields: Any) -> Any:
    """Record a receipt of a kind, written now unless `at` says otherwise, and return its row."""
    made = receipt(kind, job, miner, **{"at": timezone.now(), **fields})
    receipts().record(made)
    return RECEIPTS[kind]._default_manager.get(miner_hotkey=miner, job_uuid=made.job_uuid)


def report(
    miner: str = "anna",
    job: UUID | str | None = None,
    *,
    kind: str = FAILED,
    executor_class: str = CLASS,
    at: dt.datetime | None = None,
) -> MinerIncident:
    """Record an incident, of now unless `at` says otherwise, and return its row."""
    which, at = {"job_uuid": job or uuid4(), "executor_class": executor_class}, at or timezone.now()
    record_incident(incident_type=kind, hotkey=miner, timestamp=at, **which)
    return MinerIncident.objects.get(hotkey_ss58address=miner, job_uuid=which["job_uuid"])


def decided(miner: str = "", at: dt.datetime = NOW, **fields: Any) -> DecisionRecord:
    """Store a decision in the log."""
    usual = {"executor_class": CLASS, "seconds": 30, "outcome": "routed", "microseconds": 1, "window_hours": 24}
    return DecisionRecord.objects.create(miner=miner, at=at, **{"job_uuid": uuid4(), **usual, **fields})


def stored() -> dict[str, list[tuple[Any, ...]]]:
    """Return what the database holds: the rows of every table, by the name of its model; see `stored_fields`.

    The log of decisions is left out: refusals are in it too.
    """
    models = [model for model in apps.get_models(include_auto_created=True) if model is not DecisionRecord]
    return {
        model._meta.label: list(
            model._default_manager.order_by("pk").values_list(*(field.attname for field in stored_fields(model)))
        )
        for model in models
    }


def stored_fields(model: type[models.Model]) -> list[models.Field[Any, Any]]:
    """Return the fields whose values tell what a row says. Versions do not: they are random."""
    return [field for field in model._meta.concrete_fields if field.name != "version"]


def empty_tables() -> None:
    """Delete all rows that migrations did not make. Constraints are checked at the end, so the order doesn't matter."""
    kept = {"contenttypes.ContentType", "auth.Permission"}
    emptied = [model for model in apps.get_models(include_auto_created=True) if model._meta.label not in kept]
    with transaction.atomic(), connection.cursor() as cursor:
        for model in emptied:
            cursor.execute(f"DELETE FROM {connection.ops.quote_name(model._meta.db_table)}")  # noqa: S608


def draw(patch: pytest.MonkeyPatch, *ids: int) -> None:
    """Let the next reservation ids that are drawn by lot be these, and those after them as random as ever."""
    ahead, randbits = list(ids), secrets.randbits

    def drawn(bits: int) -> int:
        return ahead.pop(0) if ahead and bits == RESERVATION_ID_BITS else randbits(bits)

    patch.setattr(secrets, "randbits", drawn)


def read_account(*, wait: float | None = None, **which: Any) -> Account | None:
    """Return the account that `lock_account` would, without locking it."""
    if first_of := which.pop("first_of", None):
        which["miner"] = next(iter(first_of))
    return Account.objects.select_related("miner").filter(**which).first()


class Finished(NamedTuple):
    """How a command ended, what it printed, and what it complained about."""

    code: int
    out: str
    err: str


def run_command(name: str, *arguments: object) -> Finished:
    """Run a management command to its end."""
    out, err = StringIO(), StringIO()
    try:
        call_command(name, *map(str, arguments), stdout=out, stderr=err)
    except CommandError as error:
        return Finished(error.returncode, out.getvalue(), str(error))
    except SystemExit as end:
        return Finished(int(end.code or 0), out.getvalue(), err.getvalue())
    return Finished(0, out.getvalue(), err.getvalue())
