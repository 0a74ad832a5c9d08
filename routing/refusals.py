"""Why what a caller says of its job is not taken."""

from __future__ import annotations

from uuid import UUID

from routing.types import JobRoutingException


class JobFinished(JobRoutingException):
    """A job is over or paid for, so it is not routed again."""

    def __init__(self, job_uuid: UUID) -> None:
        self.job_uuid = job_uuid
        super().__init__(f"Job {job_uuid} is over or paid for. A new job needs a uuid of its own.")


class JobTaken(JobRoutingException):
    """The uuid of a new job is that of another client's job. The message names neither its route nor its owner."""

    def __init__(self, job_uuid: UUID) -> None:
        self.job_uuid = job_uuid
        super().__init__(f"The uuid {job_uuid} belongs to a job of another client. Give your job a uuid of its own.")


class JobUnknown(JobRoutingException):
    """A job never had the route that a message names; a `reservation_id` of None means a fixed route."""

    def __init__(self, job_uuid: UUID, reservation_id: int | None) -> None:
        self.job_uuid = job_uuid
        self.reservation_id = reservation_id
        route = "a fixed route" if reservation_id is None else f"reservation {reservation_id}"
        super().__init__(f"Job {job_uuid} never had {route}. Check the uuid and the id that job.routed carried.")


class RouteGivenUp(JobRoutingException):
    """A job has gone on to another miner, under the reservation `present_id`."""

    def __init__(self, job_uuid: UUID, reservation_id: int | None, present_id: int) -> None:
        self.job_uuid = job_uuid
        self.reservation_id = reservation_id
        self.present_id = present_id
        super().__init__(
            f"Job {job_uuid} has gone on to reservation {present_id}. Only receipts of that are taken; what a former "
            "miner did with the job is not paid for."
        )
