"""When to retry: an estimate of the time at which a refusal may no longer apply."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable
from uuid import UUID

from django.db.models import Exists, Min, OuterRef, QuerySet

from allowance.interface import (
    BLOCK_DURATION_US,
    Block,
    Reservation,
    held_at,
    to_seconds,
)
from receipts.interface import JobFinishedReceipt, ends
from routing.decision.model import Decision, Gate
from routing.types import Outcome

SOON = 1.0
"""Seconds after which a lock has probably been released, or an overload has probably ended."""

BLOCK_DURATION = dt.timedelta(microseconds=BLOCK_DURATION_US)

LEAST_WAIT = dt.timedelta(seconds=3)
"""Minimum time to wait for the next block. Its time is an estimate, and a shorter time would make clients ask often."""


def retry_after(decision: Decision, now: dt.datetime) -> float | None:
    """Return the seconds after which a refused job may find a miner; None if no known event can change the refusal.

    This is an estimate: jobs end early, and other jobs compete for the same miner. If allowance is missing, it is the
    time when the next reservation expires that could make the difference, or else the time of the next block. If all
    miners are busy, it is the time when the next executor becomes idle.
    """
    match decision.outcome:
        case Outcome.LOCK_TIMEOUT:
            return SOON
        case Outcome.ALL_MINERS_BUSY:
            at = _next_executor(decision, now)
        case Outcome.NOT_ENOUGH_ALLOWANCE:
            at = _next_allowance(decision, now)
        case _:
            at = None
    return None if at is None else max(0.1, round((at - now).total_seconds(), 1))


def _next_allowance(decision: Decision, now: dt.datetime) -> dt.datetime | None:
    short = [c for c in decision.candidates if c.verdict.gate is Gate.ALLOWANCE]
    holding = [c.hotkey for c in short if to_seconds(c.standing.unspent) >= decision.job.seconds]
    if expire := _next_expiry(decision, holding, now):
        return expire
    newest = Block.objects.order_by("-number").first() if any(c.executors for c in short) else None
    return now + _until_next_block(newest, now) if newest else None


def _until_next_block(newest: Block, now: dt.datetime) -> dt.timedelta:
    """Return the time until the next block is recorded, if blocks are recorded at a constant age.

    That age may be several blocks, because the chain follower records finalized blocks.
    """
    return max(BLOCK_DURATION - (now - newest.timestamp) % BLOCK_DURATION, LEAST_WAIT)


def _next_executor(decision: Decision, now: dt.datetime) -> dt.datetime | None:
    """Return when the first of the busy miners has an idle executor: when enough of its jobs must have ended."""
    busy = {c.hotkey: c.executors for c in decision.candidates if c.verdict.gate is Gate.EXECUTORS}
    over = [
        sorted(jobs.values())[len(jobs) - executors]
        for miner, jobs in _ends(decision.job.executor_class, list(busy), now).items()
        if 0 < (executors := busy[miner]) <= len(jobs)
    ]
    return min(over, default=None)


def _ends(executor_class: str, miners: list[str], now: dt.datetime) -> dict[str, dict[UUID | int, dt.datetime]]:
    """Return, by miner and job, when each ongoing job must have ended: after its reservation and its receipts."""
    jobs: defaultdict[str, dict[UUID | int, dt.datetime]] = defaultdict(dict)
    for (miner, job), until in ends(executor_class, miners, now).items():
        jobs[miner][job] = until
    finished = JobFinishedReceipt.objects.filter(job_uuid=OuterRef("job_uuid"), voided_at=None)
    held = _held(executor_class, miners, now).filter(~Exists(finished))
    for pk, uuid, miner, until in held.values_list("pk", "job_uuid", "account__miner_id", "expires_at"):
        key = uuid or pk
        jobs[miner][key] = max(until, jobs[miner].get(key, until))
    return jobs


def _next_expiry(decision: Decision, miners: Iterable[str], now: dt.datetime) -> dt.datetime | None:
    held = _held(decision.job.executor_class, miners, now)
    expire: dt.datetime | None = held.aggregate(at=Min("expires_at"))["at"]
    return expire


def _held(executor_class: str, miners: Iterable[str], now: dt.datetime) -> QuerySet[Reservation]:
    return Reservation.objects.filter(held_at(now), account__executor_class=executor_class, account__miner__in=miners)
