"""The import and export of a subnet's history as lines of JSON. `routing.upkeep.entries` defines the lines."""

from __future__ import annotations

import gzip
import json
import logging
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator
from itertools import chain as joined
from itertools import islice
from typing import Any, TypeVar

from django.db import transaction
from pydantic import BaseModel

from allowance.interface import (
    Block,
    ManifestSync,
    MinerRow,
    Reservation,
    ReservationState,
    ledger_transaction,
    lock_chain,
)
from allowance.plumbing.connections import renew_connection
from allowance.plumbing.database import alias, database
from receipts.interface import MAX_TTL, JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt, Receipt, Voidable
from routing.models import MinerIncident, RoutedJob
from routing.upkeep.entries import (
    AcceptedEntry,
    BlockEntry,
    CollateralEntry,
    FinishedEntry,
    IncidentEntry,
    JobEntry,
    ManifestsEntry,
    ReservationEntry,
    StartedEntry,
    parse,
)

MAX_LINE = 2**24
"""Maximum length of a line, in bytes. The manifests of a thousand miners take a tenth of it."""

MAX_BLANK = 2**20
"""Maximum number of bytes by which blank lines may exceed other lines. A small .gz can unpack to far more."""

logger = logging.getLogger(__name__)

Shaped = TypeVar("Shaped", bound=BaseModel)


class JournalError(ValueError):
    """A line of a journal is wrong. Neither `line`, counted from 1, nor any later line is stored."""

    def __init__(self, line: int, problem: str) -> None:
        self.line = line
        self.problem = problem
        super().__init__(f"Line {line}: {problem}")


def replay(lines: Iterable[bytes], *, batch: int = 100) -> Iterator[str]:
    """Record the events of a journal, and yield the kind of each event once it is stored.

    Each transaction stores `batch` lines; blank lines are skipped. Raises JournalError at the first line that is not an
    entry or can't be recorded. Earlier lines stay stored.
    """
    numbered = _numbered(lines)
    problem: JournalError | None = None
    clipped = 0
    while problem is None and (chunk := list(islice(numbered, batch))):
        kinds: list[str] = []
        renew_connection()  # the wait for the next lines may have been long
        with ledger_transaction():
            # Lock the chain first. Entries need this lock, and its holder may wait for rows of this batch. To take it
            # after such rows could be a deadlock.
            lock_chain()
            for number, line in chunk:
                if isinstance(line, JournalError):
                    problem = line
                    break
                try:
                    with transaction.atomic(alias()):
                        entry = parse(line)
                        entry.apply()
                except ValueError as error:
                    problem = JournalError(number, str(error))
                    break
                kinds.append(entry.event)
                clipped += isinstance(entry, StartedEntry | AcceptedEntry) and entry.ttl > MAX_TTL
        yield from kinds
    if clipped:
        logger.warning("The ttl of %d receipts of a journal was clipped to %d s.", clipped, MAX_TTL)
    if problem:
        raise problem


def _numbered(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes | JournalError]]:
    """Number the lines that are not blank. An error replaces a line that is too long or can't be read."""
    number = blank = filled = 0
    try:
        for number, line in enumerate(lines, start=1):
            content = line.removeprefix(BOM_UTF8) if number == 1 else line
            if len(line) > MAX_LINE:
                yield number, JournalError(number, f"longer than {MAX_LINE} bytes, the maximum of a line")
            elif not content.isspace() and content:
                filled += len(line)
                yield number, content
            elif (blank := blank + len(line)) > MAX_BLANK + filled:
                yield (
                    number,
                    JournalError(number, f"too many blank lines: {MAX_BLANK} bytes more than the other lines"),
                )
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        yield number + 1, JournalError(number + 1, f"the compressed file is damaged here ({error})")


def export() -> Iterator[str]:
    """Yield the history as journal lines: blocks and manifests in block order, then all other entries.

    It is a snapshot: events that are recorded meanwhile are left out.
    """
    connection = database()
    with transaction.atomic(connection.alias, durable=True):
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:  # the ORM has no API for the settings of a transaction
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        for line in _lines():
            yield _in_ascii(line.model_dump_json(exclude_none=True))


def _in_ascii(line: str) -> str:
    """Escape non-ASCII characters, so that a journal is the same in every encoding of the output."""
    return line if line.isascii() else json.dumps(json.loads(line), separators=(",", ":"))


def _lines() -> Iterator[BaseModel]:
    return joined(
        _chain(),
        (
            CollateralEntry(hotkey=miner.hotkey, wei=str(miner.wei))
            for miner in MinerRow.objects.exclude(wei=0).order_by("pk").iterator()
        ),
        map(_incident, MinerIncident.objects.order_by("pk").iterator()),
        map(_receipt(StartedEntry), JobStartedReceipt.objects.order_by("pk").iterator()),
        map(_receipt(AcceptedEntry), JobAcceptedReceipt.objects.order_by("pk").iterator()),
        map(_receipt(FinishedEntry), JobFinishedReceipt.objects.order_by("pk").iterator()),
        map(_reservation, Reservation.objects.select_related("account").order_by("created_at", "pk").iterator()),
        map(_job, RoutedJob.objects.order_by("routed_at", "pk").iterator()),
    )


def _chain() -> Iterator[BaseModel]:
    rows = ManifestSync.objects.order_by("block", "pk").iterator()
    syncs = (ManifestsEntry.model_validate(row, from_attributes=True) for row in rows)
    sync = next(syncs, None)
    for row in Block.objects.select_related("neurons").order_by("number").iterator():
        while sync is not None and sync.block < row.number:
            yield sync
            sync = next(syncs, None)
        hotkeys = row.neurons.hotkeys if row.neurons else None
        yield BlockEntry(number=row.number, timestamp=row.timestamp, stake_share=row.stake_share, hotkeys=hotkeys)
    if sync is not None:
        yield sync
        yield from syncs


def _incident(row: MinerIncident) -> IncidentEntry:
    return IncidentEntry(
        type=row.type,
        hotkey=row.hotkey_ss58address,
        job_uuid=row.job_uuid,
        executor_class=row.executor_class,
        timestamp=row.timestamp,
        executors=row.executors,
        **_void(row),
    )


def _receipt(kind: type[Shaped]) -> Callable[[Receipt], Shaped]:
    """Return a function that makes an entry from a receipt."""
    names = kind.model_fields.keys() - {"event"}
    return lambda row: kind.model_validate({name: getattr(row, name) for name in names} | _void(row))


def _void(row: Voidable) -> dict[str, Any]:
    return {
        "voided_at": row.voided_at,
        "voided_by": row.voided_by or None,
        "void_reason": row.void_reason or None,
    }


def _reservation(row: Reservation) -> ReservationEntry:
    return ReservationEntry(
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


def _job(row: RoutedJob) -> JobEntry:
    return JobEntry(
        uuid=row.uuid,
        owner=row.owner or None,
        executor_class=row.executor_class,
        seconds=row.seconds,
        miner=row.miner,
        reservation=row.reservation_id,
        tried=row.tried,
        started=row.started,
        routed_at=row.routed_at,
    )
