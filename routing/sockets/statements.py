"""What callers say of their jobs: receipts, incidents, and the end of what was reserved.

However late a word comes, it is recorded, but for a receipt of a miner that had to give the job up to another. A
reservation ends once, so the first word about that counts. Saying something again changes nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import NamedTuple

from django.db.models import Exists
from django.utils import timezone
from pydantic import ValidationError

from allowance.interface import (
    RESERVATION_MARGIN,
    BadInputError,
    Reservation,
    ReservationState,
    bound_waits,
    ledger_transaction,
    lock_timeout,
    reservations,
    state_at,
)
from receipts.interface import BadReceiptError, JobAccepted, JobFinished, JobStarted, receipts
from routing.access.admission import Visitor
from routing.incidents import record_incident
from routing.models import Rejection, RoutedJob
from routing.requests import first_problem
from routing.sockets import rejections
from routing.sockets.jobs import end_route, owned
from routing.sockets.messages import AboutRoute, Accepted, Failed, Finished, RejectedByMiner, Started, Statement
from routing.types import JobUnknown, MinerIncidentType, RouteReleased


class Attempt(NamedTuple):
    """One route that a job had: to which miner, for how many seconds, paid with which blocks."""

    miner: str
    executor_class: str
    seconds: int
    blocks: list[int]
    reservation_id: int | None
    made_at: dt.datetime
    released_at: dt.datetime | None = None

    @property
    def most_seconds(self) -> int:
        """The longest ttl that a receipt of this attempt can have: as long as its blocks were held."""
        return self.seconds + RESERVATION_MARGIN // dt.timedelta(seconds=1)

    def ttl(self, asked: int | None, timestamp: dt.datetime) -> int:
        """Return the ttl of a receipt of this attempt: as asked, or the job's seconds, to the attempt's end at most.

        Its end is when its blocks are released, or else when they stop being held. Without this bound a client could
        release routes and start their jobs later: executors would be busy with jobs that no allowance pays for.
        """
        ends_at = self.released_at or self.made_at + dt.timedelta(seconds=self.most_seconds)
        left = (ends_at - timestamp) // dt.timedelta(seconds=1)
        return max(0, min(self.seconds if asked is None else asked, left))


def note(statement: Statement, *, by: Visitor, now: dt.datetime | None = None) -> ReservationState | None:
    """Record what happened to a job, and return what its reservation is then; None on a fixed route.

    Raises JobUnknown if the job never had the route or is another client's, RouteReleased for the receipt of a route
    that another has replaced, BadInputError for times that make no sense, LockTimeout if others keep locked what is to
    be written: then the same may be said again.
    """
    attempt, at = attempt_of(statement, by), now or timezone.now()
    match statement:
        case Started() | Accepted() | Finished():
            receipt = _receipt(statement, attempt, at)
            with ledger_transaction():
                bound_waits(lock_timeout())
                if isinstance(statement, Finished):  # before the job's row is locked: it waits for the account
                    _end(reservations.spend, attempt, now)
                _insist_on_the_route(statement, at)
                try:
                    receipts().record(receipt, most=attempt.most_seconds, now=at)
                except BadReceiptError as error:
                    raise BadInputError(str(error)) from error
        case Failed():
            _record_incident(statement.incident, statement, attempt, at)
            _end(reservations.release, attempt, now)
        case RejectedByMiner():
            judged = rejections.judge(
                statement.receipts,
                job_uuid=statement.uuid,
                miner=attempt.miner,
                executor_class=attempt.executor_class,
                routed_at=attempt.made_at,
                now=at,
            )
            if not judged.excused:
                _record_incident(MinerIncidentType.MINER_JOB_REJECTED, statement, attempt, at)
            _end(reservations.release, attempt, now)
    if attempt.reservation_id is None:
        return None
    return state_at(Reservation.objects.get(pk=attempt.reservation_id), now or timezone.now())


def rejection(statement: RejectedByMiner, by: Visitor) -> Rejection:
    """Return what was found when a rejection was noted. Raises JobUnknown."""
    return Rejection.objects.get(miner=attempt_of(statement, by).miner, job_uuid=statement.uuid)


def attempt_of(statement: AboutRoute, by: Visitor) -> Attempt:
    """Return the route that is meant. Raises JobUnknown, for what is another client's too: both look alike."""
    if statement.allowance_reservation_id is None:
        job = owned(by).filter(pk=statement.uuid, reservation=None).first()
        if job is None:
            raise JobUnknown(statement.uuid, None)
        return Attempt(job.miner, job.executor_class, job.seconds, [], None, job.routed_at)
    made = Reservation.objects.select_related("account")
    if not by.all_jobs:
        made = made.filter(Exists(owned(by).filter(pk=statement.uuid)))
    reservation = made.filter(pk=statement.allowance_reservation_id, job_uuid=statement.uuid).first()
    if reservation is None:
        raise JobUnknown(statement.uuid, statement.allowance_reservation_id)
    account = reservation.account
    return Attempt(
        miner=account.miner_id,
        executor_class=account.executor_class,
        seconds=reservation.seconds,
        blocks=reservation.blocks,
        reservation_id=reservation.pk,
        made_at=reservation.created_at,
        released_at=reservation.ended_at if reservation.state == ReservationState.RELEASED else None,
    )


def _receipt(
    statement: Started | Accepted | Finished, attempt: Attempt, at: dt.datetime
) -> JobStarted | JobAccepted | JobFinished:
    """Return the receipt of what was said `at` a time. Raises BadInputError if its times make no sense."""
    timestamp = statement.timestamp or at
    if not isinstance(statement, Finished) and (statement.ttl or 0) > attempt.most_seconds:
        raise BadInputError(
            f"ttl: this job can last {attempt.most_seconds} s: its own {attempt.seconds} s and a margin. "
            f"Send at most that, not {statement.ttl}, or leave it out."
        )
    sides = {
        "job_uuid": statement.uuid,
        "miner_hotkey": attempt.miner,
        "validator_hotkey": statement.validator_hotkey,
        "timestamp": timestamp,
    }
    try:
        match statement:
            case Started():
                ttl = attempt.ttl(statement.ttl, timestamp)
                return JobStarted(**sides, executor_class=attempt.executor_class, ttl=ttl)
            case Accepted():
                ttl = attempt.ttl(statement.ttl, timestamp)
                return JobAccepted(**sides, time_accepted=statement.time_accepted or timestamp, ttl=ttl)
            case Finished():
                return JobFinished(
                    **sides,
                    time_started=statement.time_started
                    or timestamp - dt.timedelta(microseconds=statement.time_took_us),
                    time_took_us=statement.time_took_us,
                    score_str=statement.score_str,
                    block_numbers=attempt.blocks,
                )
    except ValidationError as error:
        raise BadInputError(first_problem(error)) from error


def _record_incident(kind: MinerIncidentType, statement: AboutRoute, attempt: Attempt, at: dt.datetime) -> None:
    record_incident(
        incident_type=kind,
        hotkey=attempt.miner,
        job_uuid=statement.uuid,
        executor_class=attempt.executor_class,
        timestamp=at,
    )


def _insist_on_the_route(statement: AboutRoute, at: dt.datetime) -> None:
    """Raise RouteReleased if the job has gone on: it has one receipt of each kind, which is its present miner's.

    Its row stays locked until the transaction ends, so that it does not go on before the receipt is there. The
    reservation is read in a statement of its own: joined, it would be that of before the wait for the lock, or none.
    """
    job = RoutedJob.objects.select_for_update().filter(pk=statement.uuid).first()
    if job is None or job.reservation is None or job.reservation_id == statement.allowance_reservation_id:
        return
    if state_at(job.reservation, at) in {ReservationState.HELD, ReservationState.SPENT}:
        raise RouteReleased(statement.uuid, statement.allowance_reservation_id, job.reservation.pk)


def _end(end: Callable[..., None], attempt: Attempt, now: dt.datetime | None) -> None:
    """End a reservation, unless it has ended already."""
    if attempt.reservation_id is not None:
        end_route(end, attempt.reservation_id, now)
