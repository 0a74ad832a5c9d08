"""The public interface of the router. Each pick is decided, recorded, counted and logged."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable, Collection, Iterable

from django.db.models import Model

from allowance.interface import LockTimeout, Reservation, clock, reservations
from allowance.plumbing.connections import renews_connection
from allowance.plumbing.threads import in_database_thread
from routing.decision.book import LiveBook
from routing.decision.model import OF_THE_SETTINGS, Candidate, Decision, Gate, Remedies
from routing.decision.pipeline import decide
from routing.decision.turns import Turn
from routing.incidents import record_incident
from routing.log import records
from routing.metrics import (
    DECISIONS_LOST,
    LEFT_AFTER,
    LOCK_SKIPS,
    LOCK_WAIT_SECONDS,
    LOCK_WAITS,
    PICK_SECONDS,
    SECONDS_OF,
)
from routing.types import (
    ExecutorClass,
    JobRoute,
    MinerIncidentType,
    OrganicJobRequest,
    Outcome,
)

logger = logging.getLogger(__name__)


@renews_connection
class Routing:
    """The router, which picks miners and records their incidents. It has no state."""

    async def pick_miner_for_job_request(
        self, request: OrganicJobRequest, *, exclude: Collection[str] = (), now: dt.datetime | None = None
    ) -> JobRoute:
        """Pick the miner for a job and reserve the allowance that pays for it; see `pick`.

        If the caller is cancelled before it gets the route, a database thread releases the reservation.
        """
        return await in_database_thread(self.pick, release_undelivered=release_undelivered)(
            request, exclude=exclude, now=now
        )

    def pick(
        self, request: OrganicJobRequest, *, exclude: Collection[str] = (), now: dt.datetime | None = None
    ) -> JobRoute:
        """Pick the miner for a job and reserve the allowance that pays for it.

        `exclude` are the hotkeys of miners that must not get the job. `now` pins the clock, for tests and replays.
        Spend or release the reservation in the route; a fixed route has none. The reservation lasts 100 s longer than
        the time limits of the job. Another call for the same job makes another reservation. Do not call this in a
        transaction.

        Raises ValueError for bad input, JobTooLong above an hour, and ImproperlyConfigured if the settings of a fixed
        route or the dynamic settings can't be used. Raises AllMinersBusy if at least one miner passes the checks of
        allowance and collateral, but none of these miners can take the job. Otherwise raises
        NotEnoughCollateralException if a miner has enough allowance, and NotEnoughAllowanceException if none has.
        Miners in `exclude` do not count. Raises LockTimeout if an account stays locked and its miner might have taken
        the job: pick again. After an exception nothing is reserved.
        """
        decision = pick(request, exclude=exclude, now=now)
        if decision.route is None:
            raise decision.refusal
        return decision.route

    async def report_miner_incident(
        self, type: MinerIncidentType, hotkey_ss58address: str, job_uuid: str, executor_class: ExecutorClass
    ) -> None:
        """Record that a miner rejected or failed a job; see `report_incident`."""
        await in_database_thread(self.report_incident)(type, hotkey_ss58address, job_uuid, executor_class)

    def report_incident(
        self, type: MinerIncidentType, hotkey_ss58address: str, job_uuid: str, executor_class: ExecutorClass
    ) -> None:
        """Record that a miner rejected or failed a job. Repeated reports of the same miner and job count once.

        Raises ValueError for a bad uuid, an empty hotkey, or an unknown type or class. Raises LockTimeout if other
        transactions with incidents of the class do not end in time. After an exception nothing is stored.
        """
        record_incident(
            incident_type=type,
            hotkey=hotkey_ss58address,
            job_uuid=job_uuid,
            executor_class=executor_class,
            timestamp=clock.now(),
        )


def release_undelivered(route: JobRoute) -> None:
    """Release the reservation of a route that never reached its caller."""
    if route.allowance_reservation_id is not None:
        reservations.release_undelivered(route.allowance_reservation_id)


def pick(
    request: OrganicJobRequest,
    *,
    claim: Callable[[Reservation], None] | None = None,
    rows: Callable[[Reservation], Iterable[Model]] = lambda _: (),
    exclude: Collection[str] = (),
    remedies: Remedies = OF_THE_SETTINGS,
    now: dt.datetime | None = None,
) -> Decision:
    """Decide where a job goes, and reserve there. A refusal does not raise: it is a decision without a route.

    A decision with a reservation is recorded in the transaction that reserves, any other in a transaction of its own.
    `rows` returns more rows to be stored with the reservation. `claim` is called in the transaction that reserves, and
    may raise to roll it back. `now` pins the clock, for tests and replays.

    Raises what `decide` and `claim` raise.
    """
    begun = time.perf_counter()

    def record(routed: Decision, winner: Candidate, reservation: Reservation) -> list[Model]:
        seconds = time.perf_counter() - begun
        recorded = records.route_record(routed, winner, reservation, seconds=seconds, waited=book.waited)
        return [recorded, *rows(reservation)]

    turn = Turn(str(request.executor_class))
    book = LiveBook(claim, record, turn.end)
    try:
        with turn:
            decision = decide(request, book, now=now, exclude=exclude, remedies=remedies)
    except LockTimeout:  # SQLite's only lock, or a row that is stored too, stayed locked: there is no decision
        DECISIONS_LOST.inc()
        raise
    finally:
        LOCK_SKIPS.inc(book.skipped)
        LOCK_WAITS.inc(book.waits)
        LOCK_WAIT_SECONDS.inc(book.waited)
    if decision.route is None or decision.route.allowance_reservation_id is None:
        records.record_apart(decision, seconds=time.perf_counter() - begun, waited=book.waited)
    _count(decision, time.perf_counter() - begun)
    _log(decision)
    return decision


def _count(decision: Decision, seconds: float) -> None:
    PICK_SECONDS.labels(decision.outcome).observe(seconds)
    if decision.timings is None:  # a fixed route has no candidates
        return
    for stage, of_stage in zip(SECONDS_OF.values(), decision.timings, strict=True):
        stage.observe(of_stage)
    left, failed = len(decision.candidates), decision.counts
    for gate, candidates_left in LEFT_AFTER.items():
        left -= failed.get(gate, 0)
        candidates_left.observe(left)


def _log(decision: Decision) -> None:
    uuid, route = decision.job.uuid[:80], decision.route  # on a fixed route the uuid can be any text
    of: dict[str, object] = {"job": uuid, "outcome": decision.outcome.value}
    if route is not None:
        miner, reservation = route.miner.hotkey_ss58, route.allowance_reservation_id
        of |= {"miner": miner, "reservation": reservation}
        logger.info("Job %.80r: routed to %s, reservation %s", uuid, miner, reservation, extra=of)
    elif decision.outcome is Outcome.NOT_ENOUGH_COLLATERAL:
        filtered = decision.counts[Gate.COLLATERAL]
        logger.warning("Filtered out %d miners for their collateral. %s", filtered, decision.refusal, extra=of)
    else:
        logger.info("Job %.80r: %s", uuid, decision.refusal, extra=of)
