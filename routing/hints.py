"""When to ask again: what is known of the moment at which a refusal may no longer hold."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from django.db.models import Exists, Min, OuterRef

from allowance.ledger import to_seconds
from allowance.models import Block, Reservation
from allowance.state import held_at
from allowance.types import BLOCK_DURATION_US, LockTimeout, NotEnoughAllowanceException
from receipts.models import JobFinishedReceipt, JobStartedReceipt
from routing.pipeline import refusal
from routing.types import AllMinersBusy, Decision, Gate

SOON = 1.0
"""Seconds after which a lock, or a crowd, is likely to be gone."""

BLOCK_DURATION = dt.timedelta(microseconds=BLOCK_DURATION_US)


def retry_after(decision: Decision, now: dt.datetime) -> float | None:
    """Return in how many seconds a refused job may find a miner, None if nothing known will change that.

    Nobody can promise it: jobs end early, and others want the same miner. For lack of allowance it is when the next
    hold lapses that could make the difference, or else the next block; for busy miners, when an executor comes free.
    """
    match refusal(decision):
        case LockTimeout():
            return SOON
        case AllMinersBusy():
            at = _next_executor(decision, now)
        case NotEnoughAllowanceException():
            at = _next_allowance(decision, now)
        case _:
            at = None
    return None if at is None else max(0.1, round((at - now).total_seconds(), 1))


def _next_allowance(decision: Decision, now: dt.datetime) -> dt.datetime | None:
    short = [c for c in decision.candidates if c.verdict.gate is Gate.ALLOWANCE]
    holding = [c.hotkey for c in short if to_seconds(c.standing.unspent) >= decision.job.seconds]
    if lapse := _next_lapse(decision, holding, now):
        return lapse
    newest = Block.objects.order_by("-number").first() if any(c.executors for c in short) else None
    return max(newest.timestamp + BLOCK_DURATION, now) if newest else None


def _next_executor(decision: Decision, now: dt.datetime) -> dt.datetime | None:
    busy = [c.hotkey for c in decision.candidates if c.verdict.gate is Gate.EXECUTORS]
    running = JobStartedReceipt.objects.filter(
        ~Exists(JobFinishedReceipt.objects.filter(job_uuid=OuterRef("job_uuid"), timestamp__lte=now)),
        executor_class=decision.job.executor_class,
        miner_hotkey__in=busy,
        timestamp__lte=now,
        valid_until__gt=now,
    )
    over: dt.datetime | None = running.aggregate(at=Min("valid_until"))["at"]
    return min(filter(None, (over, _next_lapse(decision, busy, now))), default=None)


def _next_lapse(decision: Decision, miners: Iterable[str], now: dt.datetime) -> dt.datetime | None:
    held = Reservation.objects.filter(
        held_at(now), account__executor_class=decision.job.executor_class, account__miner__in=miners
    )
    lapse: dt.datetime | None = held.aggregate(at=Min("expires_at"))["at"]
    return lapse
