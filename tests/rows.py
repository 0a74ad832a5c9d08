"""Rows of the ledger, of receipts and of the log, made as others make them: blocks, manifests, holds, incidents."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID, uuid4

from django.utils import timezone

from allowance import allowance, reservations
from allowance.types import ExecutorClass
from receipts import receipts
from receipts.models import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt, Receipt
from receipts.schemas import JobAccepted, JobFinished, JobStarted
from routing import routing
from routing.incidents import record_incident
from routing.models import DecisionRecord, MinerIncident
from routing.types import MinerIncidentType
from tests.clock import NOW
from tests.ledgers import CLASS, NEWEST

AXON: dict[str, Any] = {"address": "10.0.0.1", "ip_version": 4, "port": 9000}
FAILED, REJECTED, HORDE = "MINER_JOB_FAILED", "MINER_JOB_REJECTED", "MINER_HORDE_FAILED"
RECEIPTS: dict[Any, type[Receipt]] = {
    JobStarted: JobStartedReceipt,
    JobAccepted: JobAcceptedReceipt,
    JobFinished: JobFinishedReceipt,
}
"""The models of receipts, by what is recorded in them."""


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
    book = allowance()
    return dict(book.find_miners_with_allowance(allowance_seconds=seconds, executor_class=CLASS, job_start_block=start))


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
    """Report an incident as a router does, or record one of another time, and return its row."""
    job = job or uuid4()
    if at:
        record_incident(incident_type=kind, hotkey=miner, job_uuid=job, executor_class=executor_class, timestamp=at)
    else:
        routing().report_incident(MinerIncidentType(kind), miner, str(job), ExecutorClass(executor_class))
    return MinerIncident.objects.get(hotkey_ss58address=miner, job_uuid=job)


def decided(miner: str = "", at: dt.datetime = NOW, **fields: Any) -> DecisionRecord:
    """Store a decision in the log."""
    usual = {"executor_class": CLASS, "seconds": 30, "outcome": "ROUTED", "microseconds": 1, "window_hours": 24}
    return DecisionRecord.objects.create(miner=miner, at=at, **{"job_uuid": uuid4(), **usual, **fields})
