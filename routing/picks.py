"""A live pick: the decision, recorded, counted and logged, whoever asked for it."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Collection

from django.utils import timezone

from allowance.models import Reservation
from allowance.types import LockTimeout
from routing.decision.book import LiveBook
from routing.decision.pipeline import decide, outcome, refusal
from routing.log import records
from routing.metrics import DECISIONS_LOST, LEFT_AFTER, PICK_SECONDS, SECONDS_OF
from routing.types import (
    OF_THE_SETTINGS,
    ROUTED,
    Candidate,
    Decision,
    Gate,
    NotEnoughCollateralException,
    OrganicJobRequest,
    Remedies,
)

logger = logging.getLogger(__name__)


def pick(
    request: OrganicJobRequest,
    book: LiveBook,
    *,
    now: dt.datetime | None = None,
    exclude: Collection[str] = (),
    remedies: Remedies = OF_THE_SETTINGS,
) -> Decision:
    """Decide where a job goes and reserve there; raises what `decide` raises. A decision without a route is no error.

    The decision is recorded: a route in the transaction that reserves, or else nothing is; the others apart.
    `now` pins the clock for tests and replays; whoever gives it pins it in the `book` too.
    """
    begun = time.perf_counter()

    def record(question: Decision, candidate: Candidate, reservation: Reservation) -> None:
        seconds = time.perf_counter() - begun
        records.record_route(question, candidate, reservation, seconds=seconds, waited=book.waited)

    book.record = record
    try:
        decision = decide(request, book, now=now or timezone.now(), exclude=exclude, remedies=remedies)
    except LockTimeout:  # of SQLite's only lock, or of the row of a socket's job: nothing was decided
        DECISIONS_LOST.inc()
        raise
    if decision.route is None or decision.route.allowance_reservation_id is None:
        records.record_apart(decision, seconds=time.perf_counter() - begun, waited=book.waited)
    _count(decision, time.perf_counter() - begun)
    _log(decision)
    return decision


def _count(decision: Decision, seconds: float) -> None:
    PICK_SECONDS.labels(outcome(decision)).observe(seconds)
    if decision.timings is None:  # nobody was asked
        return
    for stage, of_stage in zip(SECONDS_OF.values(), decision.timings, strict=True):
        stage.observe(of_stage)
    left, failed = len(decision.candidates), decision.counts
    for gate, candidates_left in LEFT_AFTER.items():
        left -= failed.get(gate, 0)
        candidates_left.observe(left)


def _log(decision: Decision) -> None:
    uuid, route = decision.job.uuid[:80], decision.route  # on a fixed route it may be anything
    if route is not None:
        miner, reservation = route.miner.hotkey_ss58, route.allowance_reservation_id
        of = {"job": uuid, "outcome": ROUTED, "miner": miner, "reservation": reservation}
        logger.info("Job %.80r: routed to %s, reservation %s", uuid, miner, reservation, extra=of)
        return
    error = refusal(decision)
    of = {"job": uuid, "outcome": type(error).__name__}
    if isinstance(error, NotEnoughCollateralException):
        filtered = decision.counts[Gate.COLLATERAL]
        logger.warning("Filtered out %d miners for their collateral. %s", filtered, error, extra=of)
    else:
        logger.info("Job %.80r: %s", uuid, error, extra=of)
