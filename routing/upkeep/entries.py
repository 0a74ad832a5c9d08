"""The entries of a journal, and what each of them records.

The entries are the events that validators record, and two more kinds. Without the `reservation` entries a history would
give different answers in another database. Without the `job` entries clients could not make statements about their
jobs there.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any, Literal, Self, cast
from uuid import UUID

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_serializer,
    model_validator,
)

from allowance.interface import (
    MAX_BLOCK_NUMBER,
    MAX_JOB_RUN_TIME,
    RESERVATION_IDS,
    Reservation,
    ReservationState,
    allowance,
    new_version,
    reservations,
    validation,
)
from receipts.interface import (
    JobAccepted,
    JobFinished,
    JobStarted,
    Lasting,
    ReceiptAlreadyVoided,
    bounded,
    end_receipts,
    receipts,
    table_of,
    void_receipt,
)
from routing.incidents import IncidentAlreadyVoided, record_incident, void_incident
from routing.models import MinerIncident, RoutedJob
from routing.requests import first_problem

Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]
"""Text that the database accepts: without NUL characters."""


class Entry(BaseModel):
    """One entry of a journal."""

    model_config = ConfigDict(extra="forbid", strict=True)

    def apply(self) -> None:
        """Record the event. Repeating it changes nothing. Raises ValueError if it can't be recorded."""
        raise NotImplementedError


class BlockEntry(Entry):
    event: Literal["block"] = "block"
    number: int
    timestamp: AwareDatetime
    stake_share: float
    hotkeys: list[str] | None = None

    def apply(self) -> None:
        allowance().record_block(
            number=self.number, timestamp=self.timestamp, stake_share=self.stake_share, hotkeys=self.hotkeys
        )


class ManifestsEntry(Entry):
    event: Literal["manifests"] = "manifests"
    block: int
    axons: dict[str, dict[str, Any]]
    executors: dict[str, dict[str, int]]

    @field_serializer("axons", "executors")
    def sort_keys(self, by_miner: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Sort the keys, because databases keep them in different orders. The same history gives the same journal."""
        return {name: dict(sorted(values.items())) for name, values in sorted(by_miner.items())}

    def apply(self) -> None:
        allowance().record_manifests(block=self.block, axons=self.axons, executors=self.executors)


class CollateralEntry(Entry):
    event: Literal["collateral"] = "collateral"
    hotkey: str
    wei: str

    def apply(self) -> None:
        allowance().record_collateral(hotkey=self.hotkey, wei=self.wei)


class VoidableEntry(BaseModel):
    """An entry about evidence that may be voided: when, by whom and why, or nothing."""

    voided_at: AwareDatetime | None = None
    voided_by: str | None = None
    void_reason: str | None = None

    @model_validator(mode="after")
    def check_void(self) -> Self:
        """Refuse a void without a time, a name or a reason, as the database does."""
        if len({said is None for said in (self.voided_at, self.voided_by, self.void_reason)}) > 1:
            raise ValueError("give all of voided_at, voided_by and void_reason, or none")
        return self


class IncidentEntry(Entry, VoidableEntry):
    event: Literal["incident"] = "incident"
    type: str
    hotkey: str
    job_uuid: UUID
    executor_class: str
    timestamp: AwareDatetime
    executors: int | None = None

    def apply(self) -> None:
        record_incident(
            incident_type=self.type,
            hotkey=self.hotkey,
            job_uuid=self.job_uuid,
            executor_class=self.executor_class,
            timestamp=self.timestamp,
            executors=self.executors,
        )
        if self.voided_at is not None:
            incident = MinerIncident.objects.get(hotkey_ss58address=self.hotkey, job_uuid=self.job_uuid)
            with suppress(IncidentAlreadyVoided):
                void_incident(incident.pk, by=self.voided_by, reason=self.void_reason, now=self.voided_at)


class ReceiptEntry(VoidableEntry):
    """An entry with the fields of a receipt."""

    def apply(self) -> None:
        receipt: Any = self
        receipts().record(bounded(receipt))
        if self.voided_at is not None:
            sides = {"miner_hotkey": receipt.miner_hotkey, "validator_hotkey": receipt.validator_hotkey}
            row = table_of(receipt)._default_manager.filter(job_uuid=receipt.job_uuid, **sides).first()
            if row is not None:  # else another receipt of the job was recorded before
                with suppress(ReceiptAlreadyVoided):
                    void_receipt(row, by=self.voided_by, reason=self.void_reason, now=self.voided_at)


class LastingEntry(ReceiptEntry):
    """An entry about a receipt that may have ended before its ttl."""

    ended_at: AwareDatetime | None = None

    def apply(self) -> None:
        super().apply()
        if self.ended_at is not None:
            receipt: Any = self
            at = validation.timestamp(self.ended_at)
            end_receipts(receipt.job_uuid, receipt.miner_hotkey, at, of=[cast(Lasting, table_of(receipt))])


class StartedEntry(LastingEntry, JobStarted):
    event: Literal["job_started"] = "job_started"


class AcceptedEntry(LastingEntry, JobAccepted):
    event: Literal["job_accepted"] = "job_accepted"


class FinishedEntry(ReceiptEntry, JobFinished):
    event: Literal["job_finished"] = "job_finished"


class ReservationEntry(Entry):
    event: Literal["reservation"] = "reservation"
    id: int = Field(gt=0, lt=RESERVATION_IDS)
    miner: str
    executor_class: str
    job_uuid: UUID | None = None
    blocks: list[Annotated[int, Field(ge=0, le=MAX_BLOCK_NUMBER)]] = Field(min_length=1)
    created_at: AwareDatetime
    expires_at: AwareDatetime
    state: ReservationState
    ended_at: AwareDatetime | None = None

    @model_validator(mode="after")
    def check_story(self) -> Self:
        """Refuse an end without a time, a time without an end, and an empty period, as the database does."""
        if (self.state is ReservationState.HELD) != (self.ended_at is None):
            raise ValueError("a held reservation must not have ended_at, and any other must have it")
        if self.expires_at <= self.created_at:
            raise ValueError("expires_at must be later than created_at")
        return self

    def apply(self) -> None:
        reservation = Reservation(
            pk=self.id,
            job_uuid=self.job_uuid,
            blocks=self.blocks,
            created_at=validation.timestamp(self.created_at),
            expires_at=validation.timestamp(self.expires_at),
            state=self.state,
            ended_at=self.ended_at and validation.timestamp(self.ended_at),
        )
        reservations.restore(reservation, miner=self.miner, executor_class=self.executor_class)


class JobEntry(Entry):
    event: Literal["job"] = "job"
    uuid: UUID
    owner: Text | None = None
    executor_class: Annotated[Text, Field(max_length=64)]
    seconds: int = Field(ge=0, le=MAX_JOB_RUN_TIME)
    miner: str
    reservation: int | None = Field(None, gt=0, lt=RESERVATION_IDS)
    tried: list[str] = []
    started: bool = False
    routed_at: AwareDatetime

    def apply(self) -> None:
        owner, routed_at = self.owner or "", validation.timestamp(self.routed_at)
        miner, tried = validation.hotkey(self.miner), sorted(validation.hotkeys(self.tried, "tried"))
        known = RoutedJob.objects.filter(pk=self.uuid).first()
        if known is not None:
            if known.owner != owner or known.routed_at < routed_at:  # later: it was retried
                raise ValueError(
                    f"This database has a different job with the uuid {self.uuid}. Restore into an empty database."
                )
            return
        pk = self.reservation
        if pk is not None and not Reservation.objects.filter(pk=pk, job_uuid=self.uuid).exists():
            raise ValueError(
                f"Job {self.uuid}: its reservation {pk} is missing. The reservation's entry must come first."
            )
        RoutedJob.objects.create(
            uuid=self.uuid,
            owner=owner,
            executor_class=self.executor_class,
            seconds=self.seconds,
            miner=miner,
            reservation_id=pk,
            tried=tried,
            started=self.started,
            claim=new_version(),
            routed_at=routed_at,
        )


AnyEntry = Annotated[
    BlockEntry
    | ManifestsEntry
    | CollateralEntry
    | IncidentEntry
    | StartedEntry
    | AcceptedEntry
    | FinishedEntry
    | ReservationEntry
    | JobEntry,
    Field(discriminator="event"),
]
_EVENT: TypeAdapter[AnyEntry] = TypeAdapter(AnyEntry)


def parse(line: bytes | str) -> AnyEntry:
    """Return the entry in a line. Raises ValueError, in one sentence, if the line is not an entry."""
    try:
        return _EVENT.validate_json(line)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from None
