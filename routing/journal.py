"""A subnet's history as lines of JSON: what they may say, how they get in and out.

The events are those that validators record, and one more, `reservation`, without which a history would not give the
same answers elsewhere.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain as joined
from itertools import islice
from typing import Annotated, Literal, Self, TypeVar
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Model, QuerySet
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from allowance import allowance, reservations, validation
from allowance.locks import ledger_transaction, lock_chain
from allowance.models import Block, ManifestSync, Miner, Reservation, ReservationState
from allowance.types import MAX_BLOCK_NUMBER
from receipts import receipts
from receipts.models import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt
from receipts.schemas import JobAccepted, JobFinished, JobStarted
from routing.models import MinerIncident
from routing.reliability import record_incident
from routing.requests import first_problem

MAX_LINE = 2**24
"""Bytes of the longest line: the manifests of a thousand miners have a tenth of it."""

Row = TypeVar("Row", bound=Model)
Made = TypeVar("Made", bound=BaseModel)
Shaped = TypeVar("Shaped", bound=BaseModel)


class Line(BaseModel):
    """One event of a journal."""

    model_config = ConfigDict(extra="forbid", strict=True)

    def apply(self) -> None:
        """Record the event. Doing so again changes nothing; raises ValueError if it can't be."""
        raise NotImplementedError


class BlockLine(Line):
    event: Literal["block"] = "block"
    number: int
    timestamp: AwareDatetime
    stake_share: float
    hotkeys: list[str] | None = None

    def apply(self) -> None:
        allowance().record_block(
            number=self.number, timestamp=self.timestamp, stake_share=self.stake_share, hotkeys=self.hotkeys
        )


class ManifestsLine(Line):
    event: Literal["manifests"] = "manifests"
    block: int
    axons: dict[str, dict[str, str | int]]
    executors: dict[str, dict[str, int]]

    def apply(self) -> None:
        allowance().record_manifests(block=self.block, axons=self.axons, executors=self.executors)


class CollateralLine(Line):
    event: Literal["collateral"] = "collateral"
    hotkey: str
    wei: str

    def apply(self) -> None:
        allowance().record_collateral(hotkey=self.hotkey, wei=self.wei)


class IncidentLine(Line):
    event: Literal["incident"] = "incident"
    type: str
    hotkey: str
    job_uuid: UUID
    executor_class: str
    timestamp: AwareDatetime

    def apply(self) -> None:
        record_incident(
            incident_type=self.type,
            hotkey=self.hotkey,
            job_uuid=self.job_uuid,
            executor_class=self.executor_class,
            timestamp=self.timestamp,
        )


class StartedLine(JobStarted):
    event: Literal["job_started"] = "job_started"

    def apply(self) -> None:
        receipts().record(self)


class AcceptedLine(JobAccepted):
    event: Literal["job_accepted"] = "job_accepted"

    def apply(self) -> None:
        receipts().record(self)


class FinishedLine(JobFinished):
    event: Literal["job_finished"] = "job_finished"

    def apply(self) -> None:
        receipts().record(self)


class ReservationLine(Line):
    event: Literal["reservation"] = "reservation"
    id: int = Field(gt=0, lt=2**63)
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
        """Refuse what the database would: an end without a time, a time without an end, no time to hold."""
        if (self.state is ReservationState.HELD) != (self.ended_at is None):
            raise ValueError("ended_at goes with every state but held")
        if self.expires_at <= self.created_at:
            raise ValueError("expires_at must come after created_at")
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


Event = Annotated[
    BlockLine
    | ManifestsLine
    | CollateralLine
    | IncidentLine
    | StartedLine
    | AcceptedLine
    | FinishedLine
    | ReservationLine,
    Field(discriminator="event"),
]
_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


class JournalError(ValueError):
    """Say what is wrong with a line of a journal. Nothing of `line`, counted from 1, or behind it is stored."""

    def __init__(self, line: int, problem: str) -> None:
        self.line = line
        self.problem = problem
        super().__init__(f"Line {line}: {problem}")


def parse(line: bytes | str) -> Event:
    """Return the event that a line tells. Raises ValueError, in one sentence, for anything else."""
    try:
        return _EVENT.validate_json(line)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from None


def replay(lines: Iterable[bytes], *, batch: int = 100) -> Iterator[str]:
    """Record the events of a journal, and yield the kind of each once it is stored.

    Lines are stored in transactions of `batch`; blank ones are passed over. Raises JournalError at the first that is no
    event or can't be recorded, and what stands before it stays.
    """
    numbered = _numbered(lines)
    problem: JournalError | None = None
    while problem is None and (chunk := list(islice(numbered, batch))):
        kinds: list[str] = []
        with ledger_transaction():
            # First, because later events need it, and by then the batch may hold rows that its holder waits for.
            lock_chain()
            for number, line in chunk:
                if isinstance(line, JournalError):
                    problem = line
                    break
                try:
                    with transaction.atomic():
                        event = parse(line)
                        event.apply()
                except ValueError as error:
                    problem = JournalError(number, str(error))
                    break
                kinds.append(event.event)
        yield from kinds
    if problem:
        raise problem


def _numbered(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes | JournalError]]:
    """Number the lines that are not blank; where a compressed file breaks off stands an error instead of a line."""
    number = 0
    try:
        for number, line in enumerate(lines, start=1):
            if len(line) > MAX_LINE:
                yield number, JournalError(number, f"longer than {MAX_LINE} bytes, which no event is")
            elif line.strip():
                yield number, line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        yield number + 1, JournalError(number + 1, f"the compressed file is damaged here ({error})")


def export() -> Iterator[str]:
    """Yield the history as journal lines: blocks and manifests in block order, then all that refers to them.

    It is the history of one moment, whatever is recorded meanwhile.
    """
    with transaction.atomic(durable=True):
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        for line in _lines():
            yield line.model_dump_json(exclude_none=True)


def _lines() -> Iterator[BaseModel]:
    return joined(
        _chain(),
        _rows(Miner.objects.exclude(wei=0).order_by("pk"), lambda m: CollateralLine(hotkey=m.hotkey, wei=str(m.wei))),
        _rows(MinerIncident.objects.order_by("pk"), _incident),
        _rows(JobStartedReceipt.objects.order_by("pk"), _like(StartedLine)),
        _rows(JobAcceptedReceipt.objects.order_by("pk"), _like(AcceptedLine)),
        _rows(JobFinishedReceipt.objects.order_by("pk"), _like(FinishedLine)),
        _rows(Reservation.objects.select_related("account").order_by("pk"), _reservation),
    )


def _chain() -> Iterator[BaseModel]:
    syncs = _rows(ManifestSync.objects.order_by("block", "pk"), _like(ManifestsLine))
    sync = next(syncs, None)
    for row in Block.objects.select_related("neurons").order_by("number").iterator():
        while sync is not None and sync.block < row.number:
            yield sync
            sync = next(syncs, None)
        hotkeys = row.neurons.hotkeys if row.neurons else None
        yield BlockLine(number=row.number, timestamp=row.timestamp, stake_share=row.stake_share, hotkeys=hotkeys)
    if sync is not None:
        yield sync
        yield from syncs


def _rows(rows: QuerySet[Row], line: Callable[[Row], Made]) -> Iterator[Made]:
    return (line(row) for row in rows.iterator())


def _like(kind: type[Shaped]) -> Callable[[Model], Shaped]:
    """Return the maker of lines whose fields are the row's own."""
    return lambda row: kind.model_validate(row, from_attributes=True)


def _incident(row: MinerIncident) -> IncidentLine:
    return IncidentLine(
        type=row.type,
        hotkey=row.hotkey_ss58address,
        job_uuid=row.job_uuid,
        executor_class=row.executor_class,
        timestamp=row.timestamp,
    )


def _reservation(row: Reservation) -> ReservationLine:
    return ReservationLine(
        id=row.pk,
        miner=row.account.miner_id,
        executor_class=row.account.executor_class,
        job_uuid=row.job_uuid,
        blocks=row.blocks,
        created_at=row.created_at,
        expires_at=row.expires_at,
        state=ReservationState(row.state),
        ended_at=row.ended_at,
    )
