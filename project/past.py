"""Invented history for the demo: incidents, decisions, reservations, and receipts of other jobs."""

from __future__ import annotations

import datetime as dt
import math
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from constance import config
from django.db import transaction

from allowance import reservations
from allowance.models import Account, Block, Reservation, ReservationState
from allowance.types import BLOCK_EXPIRY, RESERVATION_MARGIN, ExecutorClass
from project.serve import FOLLOWED
from receipts import receipts
from receipts.schemas import JobStarted
from routing.decision.model import Gate
from routing.incidents import record_incident
from routing.models import DecisionRecord
from routing.types import MinerIncidentType, Outcome

CLASSES = (ExecutorClass.always_on__gpu_24gb, ExecutorClass.always_on__llm__a6000, ExecutorClass.spin_up_4min__gpu_24gb)
VALIDATOR = FOLLOWED["VALIDATOR_HOTKEY"]
ETH = 10**18
FORTNIGHT, DAY = dt.timedelta(days=14), dt.timedelta(days=1)
PAST_JOBS, PAST_REFUSALS = 1500, 400
MINTED_EACH = dt.timedelta(seconds=12)
BLOCK_NS = 1_200_000_000
"""Nanoseconds that each executor earned us in a block before the recorded ones, with a stake share of a tenth."""

REFUSALS = {
    Outcome.NOT_ENOUGH_ALLOWANCE: (Gate.ALLOWANCE, 70),
    Outcome.NOT_ENOUGH_COLLATERAL: (Gate.COLLATERAL, 20),
    Outcome.ALL_MINERS_BUSY: (Gate.EXECUTORS, 10),
}
"""By outcome: the gate at which all miners fail, and the share of refusals, in percent."""


@transaction.atomic
def set_the_scene(rng: random.Random, miners: list[str], now: dt.datetime) -> None:
    """Record incidents of two weeks, decisions of a day, and receipts of other jobs."""
    config.DYNAMIC_MINIMUM_COLLATERAL_AMOUNT_WEI = ETH // 100
    served = _classes_of_miners()
    for miner in miners:
        for _ in range(rng.choice([0, 0, 1, 3])):
            receipts().record(started(new_uuid(rng), miner, rng.choice(CLASSES), now, ttl=1800))
    for miner, classes in served.items():
        for _ in range(rng.choice([0, 0, 2, 4, 8, 18])):
            _record_incident(rng, rng.choice(list(MinerIncidentType)), miner, classes, _moment(rng, now, FORTNIGHT))
    broke_down, declines = rng.sample(list(served), 2)
    for _ in range(70):
        at = _moment(rng, now - dt.timedelta(days=4), DAY)
        _record_incident(rng, MinerIncidentType.MINER_HORDE_FAILED, broke_down, served[broke_down], at)
    for _ in range(120):
        at = _moment(rng, now, FORTNIGHT)
        _record_incident(rng, MinerIncidentType.MINER_JOB_REJECTED, declines, served[declines], at)
    _remember_a_day(rng, now, len(miners))


def _classes_of_miners() -> dict[str, list[str]]:
    """Return the classes in which each miner has executors, by hotkey."""
    served = defaultdict[str, list[str]](list)
    accounts = Account.objects.filter(executors__gt=0).order_by("pk")
    for miner, executor_class in accounts.values_list("miner_id", "executor_class"):
        served[miner].append(executor_class)
    return served


def _moment(rng: random.Random, now: dt.datetime, span: dt.timedelta) -> dt.datetime:
    """Return a random time in the `span` before `now`. This time of day is five times as likely as 12 hours off."""
    while True:
        age = span * rng.random()
        if rng.random() < 0.6 + 0.4 * math.cos(age / DAY * 2 * math.pi):
            return now - age


def _record_incident(rng: random.Random, kind: str, hotkey: str, classes: list[str], timestamp: dt.datetime) -> None:
    record_incident(
        incident_type=kind,
        hotkey=hotkey,
        job_uuid=new_uuid(rng),
        executor_class=rng.choice(classes),
        timestamp=timestamp,
    )


def _remember_a_day(rng: random.Random, now: dt.datetime, asked: int) -> None:
    """Store the decisions of the day before, and how their reservations ended.

    The executors of all miners count as unchanged.
    """
    recorded = {block.number: block.ns for block in Block.objects.all() if block.ns is not None}
    accounts = rng.choices(Account.objects.filter(executors__gt=0).order_by("pk"), k=PAST_JOBS)
    ends = rng.choices(list(ReservationState), (0, 80, 14, 6), k=PAST_JOBS)
    longest = RESERVATION_MARGIN + dt.timedelta(seconds=900)  # all reservations are over when the stream begins
    begins = sorted(_moment(rng, now - longest, DAY - longest) for _ in range(PAST_JOBS))
    newest, unused = Block.objects.latest("number").number, Counter[int]()
    decisions = [_refusal(rng, _moment(rng, now, DAY), asked) for _ in range(PAST_REFUSALS)]
    for pk, (account, end, created_at) in enumerate(zip(accounts, ends, begins, strict=True), 1):
        job, seconds, early = new_uuid(rng), rng.choice([60, 300, 900]), RESERVATION_MARGIN * rng.random()
        started_at = newest - math.ceil((now - created_at) / MINTED_EACH)
        first = max(unused[account.pk], started_at - BLOCK_EXPIRY)
        blocks = _payment(range(first, started_at), seconds, account.executors, recorded)
        if not blocks:  # the miner has not earned enough: skip the job
            continue
        unused[account.pk] = blocks[-1] + 1
        expires_at = created_at + RESERVATION_MARGIN + dt.timedelta(seconds=seconds)
        reservation = Reservation(
            pk=pk,
            job_uuid=job,
            blocks=blocks,
            created_at=created_at,
            expires_at=expires_at,
            state=end,
            ended_at=expires_at if end is ReservationState.EXPIRED else created_at + early,
        )
        reservations.restore(reservation, miner=account.miner_id, executor_class=account.executor_class)
        what = {"job_uuid": job, "executor_class": account.executor_class, "seconds": seconds, "asked": asked}
        won = {"miner": account.miner_id, "reservation_id": pk, "rank": 1, "score": 0.0}
        decisions.append(_decision(rng, at=created_at, outcome=Outcome.ROUTED, **what, **won))
    DecisionRecord.objects.bulk_create(decisions)


def _payment(blocks: Sequence[int], seconds: int, executors: int, recorded: Mapping[int, int]) -> list[int]:
    """Return the first of the `blocks` that pay for a job, or none if all together do not."""
    owed = seconds * 10**9
    for used, number in enumerate(blocks, 1):
        owed -= executors * recorded.get(number, BLOCK_NS)
        if owed <= 0:
            return list(blocks[:used])
    return []


def _refusal(rng: random.Random, at: dt.datetime, asked: int) -> DecisionRecord:
    (kind,) = rng.choices(list(REFUSALS), [share for _, share in REFUSALS.values()])
    what = {"executor_class": rng.choice(CLASSES), "seconds": rng.choice([900, 1500]), "asked": asked}
    counts = {REFUSALS[kind][0].value: asked}
    return _decision(rng, job_uuid=new_uuid(rng), at=at, outcome=kind, counts=counts, **what)


def _decision(rng: random.Random, **what: Any) -> DecisionRecord:
    """Return the record of a decision without its candidates."""
    return DecisionRecord(minimum_wei=ETH // 100, window_hours=24, microseconds=rng.randint(2000, 8000), **what)


def new_uuid(rng: random.Random) -> UUID:
    return UUID(int=rng.getrandbits(128), version=4)


def started(uuid: UUID, miner: str, executor_class: str, now: dt.datetime, *, ttl: int) -> JobStarted:
    return JobStarted(
        job_uuid=uuid,
        miner_hotkey=miner,
        validator_hotkey=VALIDATOR,
        executor_class=executor_class,
        is_organic=True,
        timestamp=now,
        ttl=ttl,
    )
