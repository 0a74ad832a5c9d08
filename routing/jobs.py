"""The life of a job that came over a socket: one route however often it is asked for, what became of it, another miner.

Any process may be asked next, so what must be known is in the database. The row of a job is never waited for while
something else is: it is written last in the pick's transaction, or alone, and only if its claim is still the one that
was read. Whoever loses that race reads again.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from django.db import IntegrityError
from django.db.models import Value
from django.utils import timezone

from allowance import reservations, validation
from allowance.models import Reservation, ReservationState, new_version
from allowance.state import state_at
from allowance.types import (
    MAX_JOB_RUN_TIME,
    BadInputError,
    LockTimeout,
    ReservationAlreadySpent,
    ReservationExpired,
    ReservationReleased,
)
from receipts.models import JobFinishedReceipt
from routing import picks, signatures
from routing.book import LiveBook
from routing.messages import Retry
from routing.models import RoutedJob
from routing.requests import Signature, V2JobRequest
from routing.signatures import SignatureRefused
from routing.types import Decision, JobFinished, JobRoute, JobUnknown, OrganicJobRequest

RACES = 8
"""How often somebody else may be faster before a caller gives up with LockTimeout: once is rare."""


class Offer(NamedTuple):
    """A job's route, as told to one caller, and until when it is held. The `claim` is this caller's."""

    uuid: UUID
    route: JobRoute
    expires_at: dt.datetime | None
    claim: int


class Overtaken(Exception):  # noqa: N818
    """Say that somebody else routed the job, or told its route, since its row was read."""


def route(request: V2JobRequest, *, now: dt.datetime | None = None) -> Offer | Decision:
    """Return the route of a job, or the decision that refuses it. As long as a route is held, it is told again.

    Raises JobFinished for a job that is over or paid for, ValueError for bad input, a signature that does not hold, or
    a uuid that another job has, and what `decide` raises.
    """
    at = now or timezone.now()
    signature = signatures.check(request, at)
    uuid = validation.job_uuid(request.uuid)
    for _ in range(RACES):
        job = _find(uuid)
        if signature:
            _insist_on_its_own(signature, uuid)
        with suppress(Overtaken):
            if job and job.reservation and job.claim and state_at(job.reservation, at) is ReservationState.HELD:
                _insist_on_the_same(job, request)
                return _tell_again(job, job.reservation)
            return _pick(request, job, signature=signature, now=now)
    raise LockTimeout


def retry(said: Retry, *, now: dt.datetime | None = None) -> Offer | Decision:
    """Release the route that is given up, and pick among the miners that have not had the job yet.

    If the job has gone on to another route, that one is told again. Raises JobFinished, JobUnknown, or BadInputError
    for a fixed route, to which there is no other.
    """
    if said.allowance_reservation_id is None:
        raise BadInputError("A job on a fixed route has no other miner. Send it as a new job, or not to a fixed one.")
    for _ in range(RACES):
        job = _find(said.uuid)
        tried = dict(Reservation.objects.filter(job_uuid=said.uuid).values_list("pk", "account__miner"))
        if job is None or job.reservation is None or said.allowance_reservation_id not in tried:
            raise JobUnknown(said.uuid, said.allowance_reservation_id)
        with suppress(Overtaken):
            if job.reservation_id == said.allowance_reservation_id:
                _release(job, job.reservation, now)
            elif job.claim and state_at(job.reservation, now or timezone.now()) is ReservationState.HELD:
                return _tell_again(job, job.reservation)
            again = Again(str(job.uuid), job.executor_class, job.seconds)
            return _pick(again, job, exclude=tried.values(), now=now)
    raise LockTimeout


def give_back(offer: Offer) -> None:
    """Release what a route holds that could not be passed on, unless it has been told to somebody else since."""
    # The claim before the release, so that nobody is told of a route that is about to end.
    ours = RoutedJob.objects.filter(pk=offer.uuid, claim=offer.claim).update(claim=None)
    if ours and offer.route.allowance_reservation_id is not None:
        reservations.give_back(offer.route.allowance_reservation_id)


@dataclass(frozen=True, slots=True)
class Again:
    """What a retried job asks for: what it asked for at first."""

    uuid: str
    executor_class: str
    execution_time_limit: int
    download_time_limit: int = 0
    upload_time_limit: int = 0
    on_trusted_miner: bool = False


def _find(uuid: UUID) -> RoutedJob | None:
    """Return what is known of a job; one statement if that is nothing. Raises JobFinished."""
    finished = JobFinishedReceipt.objects.filter(job_uuid=uuid).values_list(Value("finished"))
    routed = RoutedJob.objects.filter(pk=uuid).values_list(Value("routed"))
    known = {what for (what,) in finished.union(routed)}
    job = RoutedJob.objects.select_related("reservation__account__miner").get(pk=uuid) if "routed" in known else None
    paid = job and job.reservation and job.reservation.state == ReservationState.SPENT
    if paid or "finished" in known:
        raise JobFinished(uuid)
    return job


def _insist_on_the_same(job: RoutedJob, request: V2JobRequest) -> None:
    if (job.executor_class, job.seconds) != (request.executor_class, _seconds(request)):
        raise BadInputError(
            f"Job {job.uuid} was routed as one of {job.seconds} s on {job.executor_class}. "
            "Another job needs another uuid."
        )


def _insist_on_its_own(signature: Signature, uuid: UUID) -> None:
    """Raise SignatureRefused if another job has the signature: it does not sign the uuid, and so would pay for any."""
    signed = RoutedJob.objects.filter(signatory=signature.signatory, signed_at_ns=signature.timestamp_ns)
    if signed.exclude(pk=uuid).exists():
        raise SignatureRefused("The signature was used for another job. Sign each job anew.")


def _release(job: RoutedJob, reservation: Reservation, now: dt.datetime | None) -> None:
    try:
        reservations.release(reservation.pk, now=now)
    except ReservationAlreadySpent as error:
        raise JobFinished(job.uuid) from error
    except (ReservationReleased, ReservationExpired):
        pass  # it is given up, one way or the other


def _tell_again(job: RoutedJob, reservation: Reservation) -> Offer:
    claim = new_version()
    if not RoutedJob.objects.filter(pk=job.pk, claim=job.claim).update(claim=claim):
        raise Overtaken
    route = JobRoute(reservation.account.miner.value, reservation.blocks, reservation.pk)
    return Offer(job.uuid, route, reservation.expires_at, claim)


def _pick(
    request: OrganicJobRequest,
    job: RoutedJob | None,
    *,
    signature: Signature | None = None,
    exclude: Collection[str] = (),
    now: dt.datetime | None,
) -> Offer | Decision:
    claim = Claim(request, job, signature, now or timezone.now())
    decision = picks.pick(request, LiveBook(pinned=now, claim=claim.keep), now=now, exclude=exclude)
    if decision.route is None:
        return decision
    if decision.route.allowance_reservation_id is None:
        claim.store(decision.route.miner.hotkey_ss58, None)
    return Offer(claim.uuid, decision.route, claim.expires_at, claim.number)


class Claim:
    """Store which route a job has, unless somebody else was faster; `job` is its row as it was read."""

    def __init__(
        self, request: OrganicJobRequest, job: RoutedJob | None, signature: Signature | None, at: dt.datetime
    ) -> None:
        self.uuid = validation.job_uuid(request.uuid)
        self.job = job
        self.number = new_version()
        self.expires_at: dt.datetime | None = None
        self.values = {
            "executor_class": request.executor_class,
            "seconds": _seconds(request),
            "claim": self.number,
            "routed_at": at,
        }
        if signature:
            self.values |= {"signatory": signature.signatory, "signed_at_ns": signature.timestamp_ns}

    def keep(self, reservation: Reservation) -> None:
        """Store the route to a reservation that is being made. Raises Overtaken."""
        self.expires_at = reservation.expires_at
        self.store(reservation.account.miner_id, reservation)

    def store(self, miner: str, reservation: Reservation | None) -> None:
        """Store the route to a miner. Raises Overtaken."""
        values = {**self.values, "miner": miner, "reservation": reservation}
        if self.job is None:
            try:
                RoutedJob.objects.create(uuid=self.uuid, **values)
            except IntegrityError as error:
                raise Overtaken from error
        elif not RoutedJob.objects.filter(pk=self.uuid, claim=self.job.claim).update(**values):
            raise Overtaken


def _seconds(request: OrganicJobRequest) -> int:
    """Return how long a job may take. Only one for a fixed miner can be too long, or less than nothing."""
    limits = request.download_time_limit, request.execution_time_limit, request.upload_time_limit
    return min(max(sum(limits), 0), MAX_JOB_RUN_TIME)
