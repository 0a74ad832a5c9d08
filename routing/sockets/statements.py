"""The statements of clients about their jobs: receipts, incidents, and the ends of reservations.

A statement is recorded even after the reservation has ended. The exception is a receipt of a route that another route,
held or spent, has replaced. A reservation ends once: only the first statement that ends it changes it. A repeated
statement changes nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import NamedTuple

from django.db.models import Exists
from pydantic import ValidationError

from allowance.interface import (
    RESERVATION_MARGIN,
    BadInputError,
    Reservation,
    ReservationState,
    bound_waits,
    clock,
    ledger_transaction,
    lock_timeout,
    reservations,
)
from receipts.interface import BadReceiptError, JobAccepted, JobFinished, JobStarted, receipts
from routing.access.admission import Visitor
from routing.incidents import record_incident
from routing.models import Rejection, RoutedJob
from routing.requests import first_problem
from routing.sockets import rejections
from routing.sockets.jobs import adopt, end_route, owned
from routing.sockets.messages import AboutRoute, Accepted, Failed, Finished, RejectedByMiner, Started, Statement
from routing.types import JobUnknown, MinerIncidentType, RouteReleased


class Attempt(NamedTuple):
    """One route of a job: its miner, its seconds, and the blocks that pay for it."""

    miner: str
    executor_class: str
    seconds: int
    blocks: list[int]
    reservation_id: int | None
    made_at: dt.datetime
    released_at: dt.datetime | None = None

    @property
    def most_seconds(self) -> int:
        """The maximum ttl (s) of a receipt of this attempt: the time for which its blocks were reserved."""
        return self.seconds + RESERVATION_MARGIN // dt.timedelta(seconds=1)

    def ttl(self, asked: int | None, timestamp: dt.datetime) -> int:
        """Return the ttl (s) of a receipt: `asked` (None: the job's seconds), but not beyond the end of the attempt.

        The attempt ends when its blocks are released, or else `most_seconds` after it was made. Without this bound, a
        client could release a route and start its job later. The job would keep an executor busy without paying.
        """
        ends_at = self.released_at or self.made_at + dt.timedelta(seconds=self.most_seconds)
        left = (ends_at - timestamp) // dt.timedelta(seconds=1)
        return max(0, min(self.seconds if asked is None else asked, left))


def note(statement: Statement, *, by: Visitor, now: dt.datetime | None = None) -> ReservationState | None:
    """Record a statement, and return the state of the job's reservation afterwards; None on a fixed route.

    Raises JobUnknown if the job never had the route or belongs to another client, RouteReleased for a receipt of a
    route that another route has replaced, BadInputError for an impossible time or ttl, LockTimeout if a row stays
    locked. After a LockTimeout the statement may be repeated.
    """
    attempt, at = attempt_of(statement, by), now or clock.now()
    if by.all_jobs and not RoutedJob.objects.filter(pk=statement.uuid).exists():
        adopt(statement.uuid)  # a job that this site picked itself; its statements need a row that they can lock
    match statement:
        case Started() | Accepted() | Finished():
            with ledger_transaction():
                bound_waits(lock_timeout())
                # Spend first: a transaction that has locked the job's row must not wait for the account's lock.
                if isinstance(statement, Finished):
                    _end(reservations.spend, attempt, now)
                _insist_on_the_route(statement, at)
                RoutedJob.objects.filter(
                    pk=statement.uuid, reservation=statement.allowance_reservation_id, started=False
                ).update(started=True)
                # Read the attempt again under the job's lock. If its route was released meanwhile, the receipt must not
                # keep an executor busy.
                receipt = _receipt(statement, attempt_of(statement, by), at)
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
    return Reservation.objects.get(pk=attempt.reservation_id).state_at(now or clock.now())


def rejection(statement: RejectedByMiner, by: Visitor) -> Rejection:
    """Return the row recorded for a rejection. Raises JobUnknown."""
    return Rejection.objects.get(miner=attempt_of(statement, by).miner, job_uuid=statement.uuid)


def attempt_of(statement: AboutRoute, by: Visitor) -> Attempt:
    """Return the route that a statement names. Raises JobUnknown if there is none.

    It raises the same for another client's job, so that both cases look the same.
    """
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
    """Return the receipt for a statement, dated `at` by default. Raises BadInputError for an impossible time or ttl."""
    timestamp = statement.timestamp or at
    if not isinstance(statement, Finished) and (statement.ttl or 0) > attempt.most_seconds:
        raise BadInputError(
            f"ttl: at most {attempt.most_seconds} s (the job's {attempt.seconds} s and a margin), not {statement.ttl}. "
            "Send a smaller ttl, or leave it out."
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
    """Raise RouteReleased if another route, held or spent, has replaced the one that a statement names.

    A job has one receipt of each kind, from its current miner. The job's row stays locked until the transaction ends,
    so that its route is not replaced before the receipt is stored. The reservation is read in a second query, because a
    join would return the reservation as it was before the wait for the lock, or no row at all.
    """
    job = RoutedJob.objects.select_for_update().filter(pk=statement.uuid).first()
    if job is None or job.reservation is None or job.reservation_id == statement.allowance_reservation_id:
        return
    live = {ReservationState.HELD, ReservationState.SPENT}
    named = Reservation.objects.filter(pk=statement.allowance_reservation_id or 0).first()
    if named and named.state_at(at) in live:  # this site picked the job twice
        return
    if job.reservation.state_at(at) in live:
        raise RouteReleased(statement.uuid, statement.allowance_reservation_id, job.reservation.pk)


def _end(end: Callable[..., None], attempt: Attempt, now: dt.datetime | None) -> None:
    """End a reservation, unless it has already ended."""
    if attempt.reservation_id is not None:
        end_route(end, attempt.reservation_id, now)
