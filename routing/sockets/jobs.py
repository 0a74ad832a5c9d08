"""The life of a job on a socket: one route, even if it is requested repeatedly, its end, and retries with other miners.

All state is in the database, because another process may get the next message. The row of a new job is written with its
reservation. A later route is written at the end of the pick's transaction: only a signature follows. A fixed route is
written in a transaction of its own. Any later route is stored only if the claim is as it was read and no finished
receipt has come since. Otherwise the writer reads the row again. A receipt is written with the job's row locked. The
holder of this lock waits only for the row of a signature or a receipt, and every wait is bounded.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from django.db import IntegrityError
from django.db.models import QuerySet, Value

from allowance.interface import (
    MAX_JOB_RUN_TIME,
    BadInputError,
    LockTimeout,
    Reservation,
    ReservationAlreadySpent,
    ReservationException,
    ReservationState,
    bound_waits,
    clock,
    ledger_transaction,
    lock_account,
    lock_timeout,
    new_version,
    reservations,
    validation,
)
from allowance.plumbing.compiled import Compiled, parameter
from receipts.interface import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt, end_receipts
from routing.access import signatures
from routing.access.admission import Visitor
from routing.access.signatures import SignatureRefused
from routing.decision.fixed import fixed_route
from routing.decision.model import Decision, Remedies
from routing.models import RoutedJob, UsedSignature
from routing.requests import Signature, V2JobRequest
from routing.service import pick
from routing.sockets.messages import Retry
from routing.types import JobAlreadyOver, JobRoute, JobTaken, JobUnknown, OrganicJobRequest

RACES = 8
"""Maximum number of attempts to write a job before LockTimeout is raised. A second attempt is rarely needed."""


class Offer(NamedTuple):
    """A job's route, as sent to one caller, and the time until which its reservation is held.

    Only the caller that made the route has its `claim`, and can release it as undelivered. A caller that gets the route
    again has none.
    """

    uuid: UUID
    route: JobRoute
    expires_at: dt.datetime | None
    claim: int | None


class Overtaken(Exception):
    """The job was routed, its route was sent again or ended after its row was read."""


def route(request: V2JobRequest, *, by: Visitor, now: dt.datetime | None = None) -> Offer | Decision:
    """Return the route of a job, or the decision that refuses it.

    A repeated request returns a held route, unless its miner can't be reached any more and the job has not started. A
    new job belongs to the client that sends it (`by`). Raises JobTaken for another client's job, JobAlreadyOver if the
    job is finished or paid for, ValueError for bad input, an invalid signature, and a uuid that another job has,
    LockTimeout after RACES attempts. Raises what `decide` raises.
    """
    signature = signatures.check(request, now)
    uuid = validation.job_uuid(request.uuid)
    for _ in range(RACES):
        job = _find(uuid, by)
        with suppress(Overtaken):
            if job and job.executor_class != request.executor_class:  # its receipts count in the first class
                raise _another_job(job)
            if job and job.reservation and job.claim and _is_held(job.reservation, now):
                _insist_on_the_same(job, request)
                return _tell_again(job, job.reservation, signature, now=now)
            return _pick(request, job, by=by, signature=signature, now=now)
    raise LockTimeout


def retry(asked: Retry, *, by: Visitor, now: dt.datetime | None = None) -> Offer | Decision:
    """Release the named route, and pick among the miners that have not had the job yet.

    If another route of the job is held already, return that route. Raises JobAlreadyOver, JobUnknown (also for another
    client's job), BadInputError for a fixed route, which has no alternative, LockTimeout after RACES attempts.
    """
    if asked.allowance_reservation_id is None:
        raise BadInputError("A job on a fixed route has no other miner. Send the job again as job.new.")
    unknown = JobUnknown(asked.uuid, asked.allowance_reservation_id)
    for _ in range(RACES):
        if not Reservation.objects.filter(pk=asked.allowance_reservation_id, job_uuid=asked.uuid).exists():
            raise unknown
        try:
            job = _find(asked.uuid, by)
        except JobTaken:
            raise unknown from None
        if job is None or job.reservation is None:
            raise unknown
        with suppress(Overtaken):
            given_up = job.reservation_id == asked.allowance_reservation_id
            if given_up:
                refusal = end_route(reservations.release, asked.allowance_reservation_id, now)
                if isinstance(refusal, ReservationAlreadySpent):
                    raise JobAlreadyOver(asked.uuid)
                job.claim = None
            elif job.claim and _is_held(job.reservation, now):
                return _tell_again(job, job.reservation, now=now)
            again = Again(str(job.uuid), job.executor_class, job.seconds)
            tried = {*job.tried, job.miner} if given_up else job.tried
            return _pick(again, job, by=by, tried=tried, now=now)
    raise LockTimeout


def release_undelivered(offer: Offer) -> None:
    """Release the reservation of a route that was not delivered, unless another caller has got the route since."""
    if offer.claim is not None:
        _give_up(offer.uuid, offer.claim, offer.route.allowance_reservation_id, reservations.release_undelivered)


def end_route(end: Callable[..., None], reservation_id: int, now: dt.datetime | None) -> ReservationException | None:
    """Spend or release a reservation, and stop offering its route. Return the error if it had already ended.

    A retry skips the route's miner. If the route is released without being paid for, the job's receipts at that miner
    end. Otherwise a client could start jobs, fail them, and keep executors busy without paying.
    """
    with ledger_transaction():
        refusal = None
        try:
            end(reservation_id, now=now)
        except ReservationException as error:  # not raised, so that the transaction stores the expiry
            refusal = error
        reservation = Reservation.objects.select_related("account").filter(pk=reservation_id).first()
        if reservation and reservation.job_uuid:
            # A statement that had the job's lock first has stored its receipt. One that gets it later reads that the
            # route is released.
            job = RoutedJob.objects.select_for_update().filter(pk=reservation.job_uuid).first()
            if job and job.reservation_id == reservation_id:
                RoutedJob.objects.filter(pk=job.pk).update(claim=None, tried=sorted({*job.tried, job.miner}))
            if end is reservations.release and not isinstance(refusal, ReservationAlreadySpent):
                end_receipts(reservation.job_uuid, reservation.account.miner_id, now or clock.now())
    return refusal


@dataclass(frozen=True, slots=True)
class Again:
    """The request of a retried job, with the class and the seconds of the job's last route."""

    uuid: str
    executor_class: str
    execution_time_limit: int
    download_time_limit: int = 0
    upload_time_limit: int = 0
    on_trusted_miner: bool = False


def _known() -> QuerySet[Any, Any]:
    uuid = parameter(JobFinishedReceipt, "job_uuid")
    finished = JobFinishedReceipt.objects.filter(job_uuid=uuid, voided_at=None).values_list(Value("finished"))
    others = [model.objects.filter(job_uuid=uuid) for model in (Reservation, JobStartedReceipt, JobAcceptedReceipt)]
    routed = RoutedJob.objects.filter(pk=uuid).values_list(Value("routed"))
    return finished.union(routed, *(rows.values_list(Value("evidence")) for rows in others))


KNOWN = Compiled(_known)
"""The statement that tells what the database knows of a job: that it is finished, that it was routed, and evidence."""


def owned(by: Visitor) -> QuerySet[RoutedJob]:
    """Return the jobs that a client may make statements about."""
    return RoutedJob.objects.all() if by.all_jobs else RoutedJob.objects.filter(owner=by.owner)


def adopt(uuid: UUID) -> RoutedJob | None:
    """Create and return a row without an owner for a job that has a reservation and no row."""
    made = Reservation.objects.filter(job_uuid=uuid).select_related("account").order_by("created_at").last()
    if made is None:  # the job has only receipts, or its reservation was pruned in the meantime
        return None
    job = RoutedJob(
        uuid=uuid,
        executor_class=made.account.executor_class,
        seconds=made.seconds,
        miner=made.account.miner_id,
        reservation=made,
        claim=new_version(),
        started=any(
            model.objects.filter(job_uuid=uuid, miner_hotkey=made.account.miner_id, voided_at=None).exists()
            for model in (JobStartedReceipt, JobAcceptedReceipt)
        ),
        routed_at=made.created_at,
    )
    RoutedJob.objects.bulk_create([job], ignore_conflicts=True)
    return RoutedJob.objects.select_related("reservation__account__miner").get(pk=uuid)


def _find(uuid: UUID, by: Visitor) -> RoutedJob | None:
    """Return the row of a job, or None if it has none. Raises JobTaken, JobAlreadyOver.

    A new job takes only one query. Only clients with `all_jobs` may use a job that has a reservation or a receipt but
    no owner. If it has a reservation and no row, a row is created.
    """
    known = {what for (what,) in KNOWN.fetch(job_uuid=uuid)}
    job = owned(by).select_related("reservation__account__miner").filter(pk=uuid).first() if "routed" in known else None
    if known - {"finished"} and job is None:
        if not by.all_jobs:
            raise JobTaken(uuid)
        job = adopt(uuid)
    paid = job and job.reservation and job.reservation.state == ReservationState.SPENT
    if paid or "finished" in known:
        raise JobAlreadyOver(uuid)
    return job


def _insist_on_the_same(job: RoutedJob, request: V2JobRequest) -> None:
    if fixed_route(request) or job.seconds != _seconds(request):
        raise _another_job(job)


def _another_job(job: RoutedJob) -> BadInputError:
    return BadInputError(
        f"Job {job.uuid} was routed before, with {job.seconds} s on {job.executor_class}. "
        "Send a different job with another uuid."
    )


def _use(signature: Signature, uuid: UUID) -> None:
    """Record that a job uses a signature. Raises SignatureRefused if another job has used it."""
    used = {"signatory": signature.signatory, "signed_at_ns": signature.timestamp_ns}
    UsedSignature.objects.bulk_create([UsedSignature(**used, job_uuid=uuid)], ignore_conflicts=True)
    if not UsedSignature.objects.filter(**used, job_uuid=uuid).exists():
        raise SignatureRefused("The signature was used for another job. Sign each job separately.")


def _replace_claim(uuid: UUID, claim: int | None, new: int | None, **as_read: object) -> bool:
    """Replace the claim of a job. Return False if the claim, or another column `as_read`, has changed."""
    with ledger_transaction():
        bound_waits(lock_timeout())
        return bool(RoutedJob.objects.filter(pk=uuid, claim=claim, **as_read).update(claim=new))


def _give_up(
    uuid: UUID, claim: int | None, reservation_id: int | None, end: Callable[[int], object], **as_read: object
) -> None:
    """Remove the claim of a job and `end` its reservation in one transaction.

    Do nothing if the claim, or another column `as_read`, has changed.
    """
    with ledger_transaction():
        if reservation_id is not None:
            lock_account(reservation=reservation_id)  # before the job's row: see allowance.locks
        if _replace_claim(uuid, claim, None, **as_read) and reservation_id is not None:
            end(reservation_id)


def _tell_again(
    job: RoutedJob, reservation: Reservation, signature: Signature | None = None, *, now: dt.datetime | None
) -> Offer:
    if not reservation.account.miner.value.is_reachable and not job.started:  # it lost its address after the pick
        release = partial(end_route, reservations.release, now=now)
        _give_up(job.uuid, job.claim, reservation.pk, release, started=False)
        raise Overtaken
    if signature:
        _use(signature, job.uuid)
    if not _replace_claim(job.uuid, job.claim, new_version()):
        raise Overtaken
    route = JobRoute(reservation.account.miner.value, reservation.blocks, reservation.pk)
    return Offer(job.uuid, route, reservation.expires_at, None)


def _pick(
    request: OrganicJobRequest,
    job: RoutedJob | None,
    *,
    by: Visitor,
    signature: Signature | None = None,
    tried: Collection[str] = (),
    now: dt.datetime | None,
) -> Offer | Decision:
    claim = Claim(request, job, signature, tried, owner=by.owner)
    remedies = Remedies(excluded="send it as a new job")
    keep = claim.keep if job or signature else None
    try:
        decision = pick(request, claim=keep, rows=claim.rows, exclude=tried, remedies=remedies, now=now)
    except IntegrityError as error:
        if not RoutedJob.objects.filter(pk=claim.uuid).exists():
            raise
        raise Overtaken from error
    if decision.route is None:
        return decision
    if decision.route.allowance_reservation_id is None:
        claim.keep_fixed(decision)
    return Offer(claim.uuid, decision.route, claim.expires_at, claim.number)


class Claim:
    """The new route of a job, stored unless another caller was faster; `job` is the row as it was read.

    A new job belongs to `owner`, even if another client later requests another route for it.
    """

    def __init__(
        self,
        request: OrganicJobRequest,
        job: RoutedJob | None,
        signature: Signature | None,
        tried: Collection[str],
        *,
        owner: str,
    ) -> None:
        self.uuid = validation.job_uuid(request.uuid)
        self.number = new_version()
        self.expires_at: dt.datetime | None = None
        self._job = job
        self._owner = owner
        self._signature = signature
        self._values = {
            "executor_class": request.executor_class,
            "seconds": _seconds(request),
            "tried": sorted({*tried, *(job.tried if job else ())}),
            "claim": self.number,
            "started": False,
        }

    def rows(self, reservation: Reservation) -> list[RoutedJob]:
        """Return the row of a new job, to be stored with its reservation."""
        self.expires_at = reservation.expires_at
        return [] if self._job else [self._row(self._route(reservation))]

    def keep(self, reservation: Reservation) -> None:
        """Store the rest of the route in the transaction of its reservation. Raises Overtaken, SignatureRefused."""
        self._store(self._route(reservation))

    def keep_fixed(self, decision: Decision) -> None:
        """Store a fixed route. Raises Overtaken, SignatureRefused."""
        miner = decision.route.miner.hotkey_ss58 if decision.route else ""
        route = {**self._values, "miner": miner, "reservation": None, "routed_at": decision.at}
        with ledger_transaction():
            bound_waits(lock_timeout())
            if self._job is None:
                try:
                    self._row(route).save(force_insert=True)
                except IntegrityError as error:
                    raise Overtaken from error
            self._store(route)

    def _route(self, reservation: Reservation) -> dict[str, Any]:
        made = {"miner": reservation.account.miner_id, "reservation": reservation, "routed_at": reservation.created_at}
        return {**self._values, **made}

    def _row(self, route: Mapping[str, Any]) -> RoutedJob:
        return RoutedJob(uuid=self.uuid, owner=self._owner, **route)

    def _store(self, route: Mapping[str, Any]) -> None:
        if self._job:
            as_read = RoutedJob.objects.filter(pk=self.uuid, claim=self._job.claim)
            if (
                not as_read.update(**route)
                or JobFinishedReceipt.objects.filter(job_uuid=self.uuid, voided_at=None).exists()
            ):
                raise Overtaken
        if self._signature:
            _use(self._signature, self.uuid)


def _is_held(reservation: Reservation, now: dt.datetime | None) -> bool:
    return reservation.state_at(now or clock.now()) is ReservationState.HELD


def _seconds(request: OrganicJobRequest) -> int:
    """Return how long a job may take, in seconds, from 0 to MAX_JOB_RUN_TIME. Only fixed routes need this bound."""
    limits = request.download_time_limit, request.execution_time_limit, request.upload_time_limit
    return min(max(sum(limits), 0), MAX_JOB_RUN_TIME)
