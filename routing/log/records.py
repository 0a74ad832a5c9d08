"""The decision log: a record of each decision and its reasons. A record with candidates can be replayed."""

from __future__ import annotations

import datetime as dt
import logging
import math
import random
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from uuid import UUID

from django import db
from django.utils.crypto import salted_hmac

from allowance.interface import Balance, LockTimeout, Reservation, hurried_transaction, ledger
from allowance.plumbing.compiled import Compiled, inserting, stored_values
from routing.conf import conf
from routing.decision.model import Candidate, Candidates, Decision, Gate, Job, Policy, Verdict
from routing.decision.reliability import score
from routing.metrics import DECISIONS_LOST
from routing.models import DecisionRecord
from routing.types import JobRoute, Outcome

logger = logging.getLogger(__name__)

MINUTE = dt.timedelta(minutes=1)

PATIENCE = 0.25
"""Seconds. A decision that reserved nothing is not recorded if the record waits longer than this for a lock."""

LONGEST_SECONDS = 2**31
"""The most seconds that a record stores. The time limits of a job on a fixed route are not checked."""

LOOKED_THROUGH = 20
"""The most decisions that are searched for one miner. Each has all miners of a class, so a search is slow."""

COLUMNS = (
    "hotkey", "executors", "wei", "earned", "free", "spent", "earliest", "reachable", "ongoing", "incidents",
    "score", "rank", "gate", "required", "observed",
)  # fmt: skip
"""The stored values of a candidate: the input of the decision, with allowance in nanoseconds, then the result."""

INSERT = Compiled(lambda: inserting(DecisionRecord))


def route_record(
    decision: Decision, winner: Candidate, reservation: Reservation, *, seconds: float, waited: float
) -> DecisionRecord:
    """Return the record of which candidate gets a job, to be stored with the reservation.

    `seconds` is the time (s) that the pick has taken so far. `waited` is the part of it spent on waits for locks.
    """
    return _record(
        decision,
        seconds,
        waited,
        outcome=Outcome.ROUTED,
        miner=winner.hotkey,
        reservation_id=reservation.pk,
        rank=winner.rank,
        score=winner.score,
        candidates=_kept(decision) if _sampled(decision.job) else None,
    )


def record_apart(decision: Decision, *, seconds: float, waited: float) -> None:
    """Record a decision that reserved nothing: a refusal, or a fixed route.

    The decision stands even if the record can't be stored: the database rejects it, or a wait for a lock takes longer
    than PATIENCE. A log message and a counter then report this. In a transaction of the caller, the record is committed
    or rolled back with it.
    """
    miner, came_of_it = decision.route.miner.hotkey_ss58 if decision.route else "", decision.outcome
    try:
        with hurried_transaction(PATIENCE):
            kept = _kept(decision) if decision.policy and _to_be_kept(decision, came_of_it) else None
            record = _record(decision, seconds, waited, outcome=came_of_it, miner=miner, candidates=kept)
            INSERT.execute(**stored_values(record))
    except (db.Error, LockTimeout):
        DECISIONS_LOST.inc()
        logger.exception("The decision on job %.80r could not be recorded.", decision.job.uuid)


def load(record: DecisionRecord) -> Decision | None:
    """Return the decision in a record, or None if its candidates were not kept.

    The record says whether a miner was reachable. It has neither the miner's address nor the reserved blocks, which are
    stored with the miner and the reservation.
    """
    if record.candidates is None or record.window_hours is None:
        return None
    policy = Policy(record.minimum_wei, dt.timedelta(hours=record.window_hours), record.unused_blocks)
    job = Job(str(record.job_uuid), record.executor_class, record.seconds)
    kept = [dict(zip(record.candidates["columns"], row, strict=True)) for row in record.candidates["rows"]]
    candidates = Candidates.of([_candidate(record.executor_class, each) for each in kept])
    winner = next((c.standing.balance.miner for c in candidates if c.hotkey == record.miner), None)
    route = JobRoute(winner, [], record.reservation_id) if winner else None
    excluded, causes = frozenset(record.candidates["excluded"]), tuple(record.candidates.get("causes", ()))
    return Decision(job, record.at, record.block, policy, candidates, route, excluded, causes=causes)


class Touched(NamedTuple):
    """A decision in which a miner was a candidate but did not get the job, and the verdict on the miner."""

    record: DecisionRecord
    verdict: Verdict


def that_passed_over(hotkey: str, executor_classes: Iterable[str], now: dt.datetime) -> list[Touched]:
    """Return decisions of the last 24 hours in which a miner was a candidate but did not get the job, newest first.

    Only the newest LOOKED_THROUGH decisions whose candidates were kept are searched.
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


def _record(decision: Decision, seconds: float, waited: float, **what: object) -> DecisionRecord:
    return DecisionRecord(
        job_uuid=_uuid(decision.job.uuid),
        at=decision.at,
        executor_class=_text(decision.job.executor_class),
        seconds=_seconds(decision.job.seconds),
        block=decision.block,
        minimum_wei=decision.policy.minimum_wei if decision.policy else 0,
        window_hours=decision.policy.window / dt.timedelta(hours=1) if decision.policy else None,
        unused_blocks=decision.policy.unused_blocks if decision.policy else 0,
        asked=len(decision.candidates),
        counts={gate.value: n for gate, n in decision.counts.items()},
        microseconds=round(seconds * 1e6),
        waited_us=round(waited * 1e6),
        **what,
    )


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except (ValueError, AttributeError, TypeError):
        return None


def _text(executor_class: str) -> str:
    """Return a class as text that can be stored. An unknown class, or that of a fixed route, can be any text."""
    return str(executor_class).encode("utf-8", "replace").decode().replace("\0", "")[:64]


def _seconds(seconds: float) -> float:
    """Return a job's seconds as a number that can be stored. On a fixed route they can be any number."""
    bounded = min(max(seconds, 0), LONGEST_SECONDS)
    return 0.0 if math.isnan(bounded) else float(bounded)


def _sampled(job: Job) -> bool:
    """Return whether a route is in the sample: all routes of a job are, or none. Clients can't predict this."""
    drawn = salted_hmac("routing.decisions", UUID(job.uuid).hex).digest()
    return bool(int.from_bytes(drawn[:8]) < conf.ROUTING_DECISIONS_SAMPLE * 2**64)


def _to_be_kept(refused: Decision, outcome: str) -> bool:
    """Return whether to keep the candidates of a refusal.

    They are kept for ROUTING_REFUSALS_KEPT refusals of each outcome and class in a minute, and for a sample of the
    others. The database counts the kept ones, so the bound holds over all processes. Only refusals that are recorded at
    the same moment can exceed it. The sample is drawn at random, not by uuid, because a client may send the same job
    many times.
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


def _kept(decision: Decision) -> dict[str, object]:
    found = []
    for c in decision.candidates:
        standing, balance, verdict = c.standing, c.standing.balance, c.verdict
        seen = (balance.hotkey, balance.executors, balance.wei, standing.earned, standing.free, standing.spent)
        came_of_it = (c.score, c.rank, verdict.gate, verdict.required, verdict.observed)
        found.append([*seen, standing.earliest, c.reachable, c.ongoing, c.incidents, *came_of_it])
    kept: dict[str, object] = {"columns": COLUMNS, "rows": found, "excluded": sorted(decision.excluded)}
    return kept | {"causes": decision.causes} if decision.causes else kept


def _candidate(executor_class: str, kept: Mapping[str, Any]) -> Candidate:
    """Return a candidate from its stored values.

    The score and the order of the standing are computed again. The rank is the stored one.
    """
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
