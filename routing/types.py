"""The types of the contract: requests, routes, outcomes, incidents and refusals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from django.db.models import TextChoices

from allowance.interface import HOTKEY_LENGTH, BadInputError, ExecutorClass, Miner
from allowance.plumbing.errors import RefusedError

__all__ = [
    "TRUSTED_MINER_FAKE_KEY",
    "AllMinersBusy",
    "BadInputError",
    "ExecutorClass",
    "JobRoute",
    "JobRoutingException",
    "Miner",
    "MinerIncidentType",
    "NoEligibleMiner",
    "NotEnoughCollateralException",
    "OrganicJobRequest",
    "Outcome",
    "RefusedError",
]

TRUSTED_MINER_FAKE_KEY = "0" * HOTKEY_LENGTH
"""The hotkey of the pseudo-miner that gets every job with `on_trusted_miner`."""


class MinerIncidentType(StrEnum):
    """The types of incidents."""

    # Not a TextChoices: without django-stubs, mypy infers that the members of one are tuples.
    MINER_JOB_REJECTED = "MINER_JOB_REJECTED"
    MINER_JOB_FAILED = "MINER_JOB_FAILED"
    MINER_HORDE_FAILED = "MINER_HORDE_FAILED"

    @property
    def label(self) -> str:
        """What the miner did, in words."""
        return _LABELS[self.value]


_LABELS = {
    "MINER_JOB_REJECTED": "rejected the job",
    "MINER_JOB_FAILED": "failed the job",
    "MINER_HORDE_FAILED": "its horde failed",
}


class Outcome(TextChoices):
    """How a decision on a job ended. Clients, logs, metrics, pages and the database all use these names."""

    ROUTED = "ROUTED", "routed"
    NOT_ENOUGH_ALLOWANCE = "NOT_ENOUGH_ALLOWANCE", "not enough allowance"
    NOT_ENOUGH_COLLATERAL = "NOT_ENOUGH_COLLATERAL", "not enough collateral"
    ALL_MINERS_BUSY = "ALL_MINERS_BUSY", "all miners busy"
    LOCK_TIMEOUT = "LOCK_TIMEOUT", "lock timeout"


REFUSALS = tuple(outcome for outcome in Outcome if outcome is not Outcome.ROUTED)
"""The outcomes of decisions without a route."""


class OrganicJobRequest(Protocol):
    """The fields of a job request that the router reads. Limits are in seconds."""

    @property
    def uuid(self) -> str: ...
    @property
    def executor_class(self) -> str: ...
    @property
    def download_time_limit(self) -> int: ...
    @property
    def execution_time_limit(self) -> int: ...
    @property
    def upload_time_limit(self) -> int: ...
    @property
    def on_trusted_miner(self) -> bool: ...


@dataclass(frozen=True)
class JobRoute:
    """The miner that a job goes to, and the allowance that pays for it.

    `allowance_blocks` is None for the trusted miner and empty for the debug miner; neither has a reservation.
    """

    miner: Miner
    allowance_blocks: list[int] | None
    allowance_reservation_id: int | None


class JobRoutingException(RefusedError):
    """A job can't be routed. This is the base class of the router's own refusals. Nothing is reserved."""


class NoEligibleMiner(JobRoutingException):
    """No miner can take the job.

    `reasons` has the reason for each candidate, by hotkey. `causes` are sentences on what no single miner can change.
    """

    def __init__(self, message: str, *, reasons: Mapping[str, str], causes: Sequence[str]) -> None:
        self.reasons = reasons
        self.causes = causes
        super().__init__(message)


class AllMinersBusy(NoEligibleMiner):
    """Every miner with enough allowance and collateral has no idle executor, or can't be reached."""


class NotEnoughCollateralException(NoEligibleMiner):
    """Every miner with enough allowance has posted less collateral than required."""


class JobAlreadyOver(JobRoutingException):
    """A job is over or paid for, so it is not routed again."""

    def __init__(self, job_uuid: UUID) -> None:
        self.job_uuid = job_uuid
        super().__init__(f"Job {job_uuid} is over or paid for. Send a new job with a new uuid.")


class JobTaken(JobRoutingException):
    """The uuid of a new job belongs to another client's job. The message names neither its route nor its owner."""

    def __init__(self, job_uuid: UUID) -> None:
        self.job_uuid = job_uuid
        super().__init__(f"The uuid {job_uuid} belongs to another client's job. Send your job with a new uuid.")


class JobUnknown(JobRoutingException):
    """A job never had the route that a message names; a `reservation_id` of None means a fixed route."""

    def __init__(self, job_uuid: UUID, reservation_id: int | None) -> None:
        self.job_uuid = job_uuid
        self.reservation_id = reservation_id
        route = "a fixed route" if reservation_id is None else f"reservation {reservation_id}"
        super().__init__(f"Job {job_uuid} never had {route}. Compare the uuid and the id with those in job.routed.")


class RouteReleased(JobRoutingException):
    """A job has moved to another miner, and its reservation is now `present_id`."""

    def __init__(self, job_uuid: UUID, reservation_id: int | None, present_id: int) -> None:
        self.job_uuid = job_uuid
        self.reservation_id = reservation_id
        self.present_id = present_id
        super().__init__(
            f"Job {job_uuid} has moved to another miner, with reservation {present_id}. The router accepts receipts "
            "for that reservation only. An earlier miner of the job is not paid."
        )
