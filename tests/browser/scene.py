"""What a browser finds in the database: some of everything that pages show, named as nastily as they may be."""

from __future__ import annotations

import datetime as dt
from uuid import UUID, uuid4

from django.utils import timezone

from allowance import allowance, reservations
from allowance.models import Reservation
from allowance.types import ExecutorClass, NotEnoughAllowanceException
from receipts import receipts
from receipts.schemas import JobStarted
from routing import routing
from routing.models import DecisionRecord, MinerIncident
from routing.types import MinerIncidentType, Outcome
from tests.factories import job_request, run_command
from tests.follower import follow, follow_all
from tests.ledgers import CLASS, FIRST_BLOCK, fill_ledger

NASTY = (
    "<script>alert(1)</script>",
    "<img/src=x/onerror=alert(1)>",
    "\"'onmouseover='alert(1)'autofocus=\"",
    "</script><script>alert(1)</script>",
    "<!--<script>alert(1)",
    "a/b?c=d&amp;#e%2F..",
)
"""Hotkeys, which have no blanks: whoever wrote one into a page as it is would run it, or cut an address short."""

PLAIN = ("anna", "bert")
LONG = "5" + "F" * 47
MINERS = (*PLAIN, *NASTY, LONG)

REASON = '<script>alert(2)</script><img src=x onerror=alert(2)> "it\'s" </textarea>'
"""Why an incident was voided."""

USER = "<svg/onload=alert(3)>"
"""Who voided it; only a program can give users such names."""

OTHER_CLASS = ExecutorClass.always_on__llm__a6000.value
REJECTED, FAILED, HORDE = MinerIncidentType
HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)

INCIDENTS = (
    *((NASTY[0], FAILED, hours, CLASS) for hours in (1, 2, 2, 5)),
    *((NASTY[3], REJECTED, hours, CLASS) for hours in (1, 5, 30)),
    *((hotkey, HORDE, 3, OTHER_CLASS) for hotkey in NASTY),
    (LONG, REJECTED, 1, CLASS),
    (LONG, REJECTED, 20 * 24, CLASS),
    ("bert", FAILED, 1, CLASS),
    ("bert", FAILED, 50, OTHER_CLASS),
)
"""Each by a miner, of a type, so many hours ago, in a class."""

OUTCOMES = (
    (Outcome.ROUTED, 2, 4),
    (Outcome.ROUTED, 3, 2),
    ("NOT_ENOUGH_ALLOWANCE", 2, 1),
    ("ALL_MINERS_BUSY", 5, 3),
)
"""Decisions of the past: how they ended, how many hours ago, how many."""


def fill() -> None:
    """Let there be some of everything, relative to now."""
    now = timezone.now()
    fill_ledger(*MINERS, blocks=41, executors=4)
    for hotkey in MINERS:
        allowance().record_collateral(hotkey=hotkey, wei=1000)
    for hotkey, kind, hours, executor_class in INCIDENTS:
        incident(hotkey, kind, now - hours * HOUR, executor_class)
    incident(NASTY[1], FAILED, now - 4 * HOUR, CLASS, voided_at=now, voided_by=USER, void_reason=REASON)
    for hotkey, hours in ((NASTY[0], 2), (NASTY[2], 2), (NASTY[3], 7)):
        reserve(hotkey, now - hours * HOUR)
    for hotkey in (*NASTY, LONG):
        reservations.spend(reserve(hotkey, now).pk, now=now)
    reservations.release(reserve("bert", now).pk, now=now)
    live = reserve(NASTY[0], now)
    receipts().record(_started(NASTY[0], live.job_uuid or uuid4(), now))
    for outcome, hours, number in OUTCOMES:
        for _ in range(number):
            decision(outcome, now - hours * HOUR)
    follow_all(now, (NASTY[0], LONG, "bert"))
    follow(now, head=FIRST_BLOCK + 42)
    routing().pick(job_request(30))
    try:
        routing().pick(job_request(3600))
    except NotEnoughAllowanceException:
        run_command("check_ledger")


def incident(hotkey: str, kind: str, at: dt.datetime, executor_class: str, **void: object) -> MinerIncident:
    return MinerIncident.objects.create(
        hotkey_ss58address=hotkey,
        type=kind,
        timestamp=at,
        job_uuid=uuid4(),
        executor_class=executor_class,
        executors=4,
        **void,
    )


def reserve(hotkey: str, now: dt.datetime) -> Reservation:
    """Let a miner hold two blocks for a job of 30 s."""
    return reservations.reserve(
        miner=hotkey, executor_class=CLASS, seconds=30, job_start_block=FIRST_BLOCK, job_uuid=uuid4(), now=now
    )


def decision(outcome: str, at: dt.datetime) -> DecisionRecord:
    return DecisionRecord.objects.create(
        job_uuid=uuid4(),
        at=at,
        executor_class=CLASS,
        seconds=30,
        block=FIRST_BLOCK,
        outcome=outcome,
        miner=NASTY[0] if outcome == Outcome.ROUTED else "",
        window_hours=24,
        microseconds=5000,
    )


def _started(miner: str, job: UUID, now: dt.datetime) -> JobStarted:
    return JobStarted(
        job_uuid=job,
        miner_hotkey=miner,
        validator_hotkey="us",
        executor_class=CLASS,
        is_organic=True,
        timestamp=now,
        ttl=600,
    )
