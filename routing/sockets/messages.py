"""The messages of the sockets in both directions, and the reasons of refusals.

`manage.py message_schema` prints them as JSON Schema.
"""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from allowance.interface import RESERVATION_IDS, ReservationState
from receipts.interface import Hotkey, Time, Ttl
from routing.decision.model import Gate
from routing.requests import V2JobRequest
from routing.types import MinerIncidentType


class Reason(StrEnum):
    """Why a job has no route, or why a message is refused."""

    BAD_MESSAGE = "BAD_MESSAGE"
    BAD_SIGNATURE = "BAD_SIGNATURE"
    JOB_TOO_LONG = "JOB_TOO_LONG"
    NOT_ENOUGH_ALLOWANCE = "NOT_ENOUGH_ALLOWANCE"
    NOT_ENOUGH_COLLATERAL = "NOT_ENOUGH_COLLATERAL"
    ALL_MINERS_BUSY = "ALL_MINERS_BUSY"
    LOCK_TIMEOUT = "LOCK_TIMEOUT"
    JOB_ALREADY_OVER = "JOB_ALREADY_OVER"
    JOB_TAKEN = "JOB_TAKEN"
    JOB_UNKNOWN = "JOB_UNKNOWN"
    ROUTE_RELEASED = "ROUTE_RELEASED"
    OVERLOADED = "OVERLOADED"
    RATE_LIMITED = "RATE_LIMITED"
    REFUSED_TOO_OFTEN = "REFUSED_TOO_OFTEN"
    UNAVAILABLE = "UNAVAILABLE"


REJECTION = "job.rejected_by_miner"


ReservationId = Annotated[int, Field(strict=True, gt=0, lt=RESERVATION_IDS)]


class Message(BaseModel):
    """The base class of all messages. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AboutRoute(Message):
    """A message about a job's route, which `allowance_reservation_id` names; null names a fixed route.

    The id identifies the attempt, so that a late statement about one miner never ends the route to the next. The job
    must be the client's own, or the client must have access to all jobs. Other clients get JOB_UNKNOWN.
    """

    uuid: UUID
    allowance_reservation_id: ReservationId | None


class Started(AboutRoute):
    """The job was sent to its miner. It keeps an executor busy for `ttl` seconds (null: the job's own)."""

    type: Literal["job.started"] = "job.started"
    validator_hotkey: Hotkey
    timestamp: Time | None = Field(None, description="null: now")
    ttl: Ttl | None = None


class Accepted(AboutRoute):
    """The miner accepted the job. It keeps its executor busy for another `ttl` seconds (null: the job's own)."""

    type: Literal["job.accepted"] = "job.accepted"
    validator_hotkey: Hotkey
    timestamp: Time | None = Field(None, description="null: now")
    time_accepted: Time | None = Field(None, description="null: the timestamp")
    ttl: Ttl | None = None


class Finished(AboutRoute):
    """The job is finished and must be paid for: its reservation is spent."""

    type: Literal["job.finished"] = "job.finished"
    validator_hotkey: Hotkey
    timestamp: Time | None = Field(None, description="null: now")
    time_started: Time | None = Field(None, description="null: the timestamp minus `time_took_us`")
    time_took_us: Annotated[int, Field(strict=True, ge=0, le=366 * 24 * 3600 * 10**6, description="microseconds")]
    score_str: Annotated[str, Field(max_length=64, pattern=r"^[^\x00]*$")] = ""


class Failed(AboutRoute):
    """The miner or its horde failed the job: an incident is recorded and the reservation is released."""

    type: Literal["job.failed"] = "job.failed"
    incident: Literal[MinerIncidentType.MINER_JOB_FAILED, MinerIncidentType.MINER_HORDE_FAILED] = (
        MinerIncidentType.MINER_JOB_FAILED
    )


class RejectedByMiner(AboutRoute):
    """The miner rejected the job: the reservation is released and an incident is recorded.

    No incident is recorded if the miner showed `receipts` of as many other ongoing jobs as it had executors.
    """

    type: Literal["job.rejected_by_miner"] = "job.rejected_by_miner"
    receipts: list[Any] = Field([], description="receipts that the miner showed, in their wire form")


class Retry(AboutRoute):
    """A request to release the named route and to pick a miner that has not had the job yet."""

    type: Literal["job.retry"] = "job.retry"


class MinerAddress(Message):
    address: str
    ip_version: int
    port: int
    hotkey_ss58: str


class Routed(Message):
    """The route of a job, and the time until which its blocks are held. On a fixed route no blocks are held (null)."""

    type: Literal["job.routed"] = "job.routed"
    uuid: UUID
    miner: MinerAddress
    allowance_blocks: list[int] | None
    allowance_reservation_id: ReservationId | None
    expires_at: dt.datetime | None


class Rejected(Message):
    """The reason why a job has no route; `counts` is the number of miners that each gate rejected."""

    type: Literal["job.rejected"] = "job.rejected"
    uuid: str | None
    reason: Reason
    sentence: str
    counts: dict[Gate, int] = Field(default_factory=dict)
    retry_after_seconds: float | None = Field(None, description="after how many seconds to ask again; null: unknown")


class Acknowledged(Message):
    """A statement is recorded; `reservation` is the state of the reservation now, even if another statement set it.

    An `incident` is recorded for a failure, and for a rejection unless the receipts `excused` the miner. The `sentence`
    says why they do or do not excuse it.
    """

    type: Literal["job.acknowledged"] = "job.acknowledged"
    uuid: UUID
    of: str
    allowance_reservation_id: ReservationId | None
    reservation: ReservationState | None
    incident: bool = False
    excused: bool | None = None
    sentence: str | None = None


class Happened(Message):
    """News of a job, sent to the clients that follow the job."""

    type: Literal["job.event"] = "job.event"
    uuid: UUID
    of: str
    miner: str | None = None
    allowance_reservation_id: ReservationId | None = None
    reservation: ReservationState | None = None
    reason: Reason | None = None


class Refused(Message):
    """A message could not be read, or could not be acted on. `of` is its type, if it has one.

    Nothing is recorded, except after LOCK_TIMEOUT or UNAVAILABLE: then a part of the statement, or all of it, may be
    recorded. Send the same message again.
    """

    type: Literal["error"] = "error"
    uuid: str | None
    of: str | None
    reason: Reason
    sentence: str
    retry_after_seconds: float | None = None


Statement = Started | Accepted | Finished | Failed | RejectedByMiner
"""The messages that are acknowledged. The answer to a V2JobRequest or a Retry is a route or a rejection."""

Incoming = V2JobRequest | Retry | Statement

NEW_JOB = "job.new"
QUESTIONS = (NEW_JOB, "job.retry")
TYPES = (
    *QUESTIONS,
    "job.started",
    "job.accepted",
    "job.finished",
    "job.failed",
    "job.rejected_by_miner",
)


def type_of(message: Any) -> str | None:
    """Return the type of a JSON message, or None if it is unknown. A message without a type is a V2JobRequest."""
    found = message.get("type", NEW_JOB) if isinstance(message, dict) else None
    return found if isinstance(found, str) and found in TYPES else None


INCOMING: TypeAdapter[Incoming] = TypeAdapter(
    Annotated[
        Annotated[V2JobRequest, Tag(NEW_JOB)]
        | Annotated[Retry, Tag("job.retry")]
        | Annotated[Started, Tag("job.started")]
        | Annotated[Accepted, Tag("job.accepted")]
        | Annotated[Finished, Tag("job.finished")]
        | Annotated[Failed, Tag("job.failed")]
        | Annotated[RejectedByMiner, Tag("job.rejected_by_miner")],
        Discriminator(
            type_of,
            custom_error_type="unknown_type",
            custom_error_message=f"A message must be an object with one of these types: {', '.join(TYPES)}.",
        ),
    ]
)
"""The parser of all messages that a client may send."""

INCOMING_MODELS = (V2JobRequest, Retry, Started, Accepted, Finished, Failed, RejectedByMiner)
OUTGOING_MODELS = (Routed, Rejected, Acknowledged, Happened, Refused)


def schema() -> dict[str, Any]:
    """Return the JSON Schema of all messages, each by its name under `$defs`."""
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in INCOMING_MODELS]
    models += [(model, "serialization") for model in OUTGOING_MODELS]
    return models_json_schema(models, title="Messages of the miner router's sockets")[1]
