"""The decision log: a record of each decision and why it was so; with its candidates kept, it can be made again."""

from __future__ import annotations

import datetime as dt
import logging
import math
import random
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from uuid import UUID

from django import db
from django.db import connection
from django.utils.crypto import salted_hmac

from allowance.interface import Balance, LockTimeout, Reservation, hurried_transaction, ledger, rows
from routing.conf import conf
from routing.decision.model import Candidate, Decision, Gate, Job, Policy, Verdict
from routing.decision.reliability import score
from routing.metrics import DECISIONS_LOST
from routing.models import DecisionRecord
from routing.types import JobRoute, Outcome

logger = logging.getLogger(__name__)

MINUTE = dt.timedelta(minutes=1)

PATIENCE = 0.25
"""Seconds for which a decision that reserved nothing waits for others before it goes unrecorded."""

LONGEST_SECONDS = 2**31
"""What is kept of a fixed route's job that may take longer, which is nobody's to judge."""

LOOKED_THROUGH = 20
"""So many decisions with their candidates are looked through for one miner: each has all miners of a class."""

COLUMNS = (
    "hotkey", "executors", "wei", "earned", "free", "spent", "earliest", "reachable", "ongoing", "incidents",
    "score", "rank", "gate", "required", "observed",
)  # fmt: skip
"""What is kept of a candidate: first what the decision began with, amounts in nanoseconds; then what came of it."""

_INSERT, _FIELDS = rows.insertion(DecisionRecord)


def record_route(
    question: Decision, candidate: Candidate, reservation: Reservation, *, seconds: float, waited: float
) -> None:
    """Record, in the transaction that reserves, who of all candidates gets a job.

    `seconds` is how long the pick has taken, `waited` how much of that it waited for locks.
    """
    _insert(
        question,
        seconds,
        waited,
        outcome=Outcome.ROUTED,
        miner=candidate.hotkey,
        reservation_id=reservation.pk,
        rank=candidate.rank,
        score=candidate.score,
        candidates=_kept(question, candidate) if _sampled(question.job) else None,
    )


def record_apart(decision: Decision, *, seconds: float, waited: float) -> None:
    """Record a decision by which nothing was reserved: a refusal, or a fixed route.

    It stands even if the database does not take the record, or not soon; then the log and a counter say so. In a
    transaction of the caller's own the record shares its fate.
    """
    miner, came_of_it = decision.route.miner.hotkey_ss58 if decision.route else "", decision.outcome
    try:
        with hurried_transaction(PATIENCE):
            kept = _kept(decision) if decision.policy and _to_be_kept(decision, came_of_it) else None
            _insert(decision, seconds, waited, outcome=came_of_it, miner=miner, candidates=kept)
    except (db.Error, LockTimeout):
        DECISIONS_LOST.inc()
        logger.exception("The decision on job %.80r could not be recorded.", decision.job.uuid)


def load(record: DecisionRecord) -> Decision | None:
    """Return the decision that a record tells, or None if its candidates were not kept.

    Whether a miner had an address is recorded. The address and the blocks are with the miner and the reservation.
    """
    if record.candidates is None or record.window_hours is None:
        return None
    policy = Policy(record.minimum_wei, dt.timedelta(hours=record.window_hours))
    job = Job(str(record.job_uuid), record.executor_class, record.seconds)
    kept = [dict(zip(record.candidates["columns"], row, strict=True)) for row in record.candidates["rows"]]
    candidates = tuple(_candidate(record.executor_class, each) for each in kept)
    winner = next((c.miner for c in candidates if c.hotkey == record.miner), None)
    route = JobRoute(winner, [], record.reservation_id) if winner else None
    excluded, causes = frozenset(record.candidates["excluded"]), tuple(record.candidates.get("causes", ()))
    return Decision(job, record.at, record.block, policy, candidates, route, excluded, causes=causes)


class Touched(NamedTuple):
    """A decision in which a miner was a candidate and did not get the job, and the verdict on it."""

    record: DecisionRecord
    verdict: Verdict


def that_passed_over(hotkey: str, executor_classes: Iterable[str], now: dt.datetime) -> list[Touched]:
    """Return the newest decisions of a day in which a miner was a candidate in vain.

    They are found among the newest LOOKED_THROUGH whose candidates were kept.
    """
    kept = DecisionRecord.objects.filter(
        executor_class__in=executor_classes, at__gt=now - dt.timedelta(days=1), candidates__isnull=False
    ).exclude(miner=hotkey)
    found = []
    for record in kept.order_by("-at", "-pk")[:LOOKED_THROUGH]:
        decision = load(record)
        candidates = decision.candidates if decision else ()
        found += [Touched(record, c.verdict) for c in candidates if c.hotkey == hotkey]
    return found


def _insert(decision: Decision, seconds: float, waited: float, **what: object) -> None:
    record = DecisionRecord(
        job_uuid=_uuid(decision.job.uuid),
        at=decision.at,
        executor_class=_text(decision.job.executor_class),
        seconds=_seconds(decision.job.seconds),
        block=decision.block,
        minimum_wei=decision.policy.minimum_wei if decision.policy else 0,
        window_hours=decision.policy.window / dt.timedelta(hours=1) if decision.policy else None,
        asked=len(decision.candidates),
        counts={gate.value: n for gate, n in decision.counts.items()},
        microseconds=round(seconds * 1e6),
        waited_us=round(waited * 1e6),
        **what,
    )
    with connection.cursor() as cursor:
        cursor.execute(_INSERT, rows.prepared(record, _FIELDS))


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except (ValueError, AttributeError, TypeError):
        return None


def _text(executor_class: str) -> str:
    """Return what can be stored of a class; an unknown one, or a fixed route's, may be anything."""
    return str(executor_class).encode("utf-8", "replace").decode().replace("\0", "")[:64]


def _seconds(seconds: float) -> float:
    """Return what can be stored of a job's seconds; those of a fixed route may be anything."""
    bounded = min(max(seconds, 0), LONGEST_SECONDS)
    return 0.0 if math.isnan(bounded) else float(bounded)


def _sampled(job: Job) -> bool:
    """Tell whether a route is in the sample: all of a job are, or none. No client can tell by the uuid."""
    drawn = salted_hmac("routing.decisions", UUID(job.uuid).hex).digest()
    return bool(int.from_bytes(drawn[:8]) < conf.ROUTING_DECISIONS_SAMPLE * 2**64)


def _to_be_kept(refused: Decision, outcome: str) -> bool:
    """Tell whether a refusal is among the first of its kind within a minute, or else in the sample.

    The database is asked, so the bound is one for all processes: only refusals that are being recorded at the same
    moment don't know of each other. Which of the others are kept is drawn by lot, because a client may ask for one job
    again and again.
    """
    kept = DecisionRecord.objects.filter(
        outcome=outcome,
        executor_class=_text(refused.job.executor_class),
        at__gt=refused.at - MINUTE,
        at__lte=refused.at,
        candidates__isnull=False,
    )
    most: int = conf.ROUTING_REFUSALS_KEPT
    return bool(kept[:most].count() < most or random.random() < conf.ROUTING_DECISIONS_SAMPLE)  # noqa: S311 (a sample is no secret)


def _kept(decision: Decision, winner: Candidate | None = None) -> dict[str, object]:
    found = []
    for c in decision.candidates:
        standing, balance = c.standing, c.standing.balance
        verdict = c.chosen(decision.job) if c is winner else c.verdict
        seen = (balance.hotkey, balance.executors, balance.wei, standing.earned, standing.free, standing.spent)
        came_of_it = (c.score, c.rank, verdict.gate, verdict.required, verdict.observed)
        found.append([*seen, standing.earliest, c.reachable, c.ongoing, c.incidents, *came_of_it])
    kept: dict[str, object] = {"columns": COLUMNS, "rows": found, "excluded": sorted(decision.excluded)}
    return kept | {"causes": decision.causes} if decision.causes else kept


def _candidate(executor_class: str, kept: Mapping[str, Any]) -> Candidate:
    """Return a candidate as it was kept. Its score and its place among the others are worked out anew."""
    balance = Balance(
        hotkey=kept["hotkey"],
        address="",
        ip_version=4,
        port=0,
        wei=kept["wei"],
        presence=(),
        executor_class=executor_class,
        executors=kept["executors"],
        counts=(),
        voided_before=0,
        base=0,
        held=0,
        spent=0,
    )
    standing = ledger.standing(balance, kept["earned"], kept["free"], kept["spent"], kept["earliest"] or 0)
    gate = kept["gate"] and Gate(kept["gate"])
    verdict = Verdict(gate, kept["required"], kept["observed"])
    rated = score(kept["incidents"], kept["executors"])
    return Candidate(standing, kept["reachable"], kept["ongoing"], kept["incidents"], rated, verdict, kept["rank"])
