"""Take in the receipts that a miner serves: decide which ones count, and store them.

A miner serves its receipts itself. It can leave any out, and it can forge those of each hotkey that it controls. So a
receipt is believed only as far as the validator who signed it:

- It is about the miner that serves it, and a validator with a permit signed it. Both signatures are verified.
- A job belongs to one validator. About a job that this site routed, only its own validator is believed. About another
  job, only the validator whose receipt came first is believed. So a miner and a validator that collude can't end a job
  of another miner, to make it look idle.

Two that collude can still be faster: they can read the uuid of a job in the genuine started receipt on the other
miner's page, and serve one of their own before that page is read. Then the genuine ones are refused. The damage is one
executor of the other miner that looks idle for as long as that job lasts: this site may send a job there, and it is
rejected. It can't happen to jobs of this site, and it earns nothing that a miner can't have by hiding receipts.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from django.db import DataError, IntegrityError

from allowance import clock
from receipts import receipts
from receipts.models import Receipt as Row
from receipts.schemas import AnyReceipt, JobAccepted, JobFinished, JobStarted, read
from receipts.service import TABLES, table_of
from receipts.signatures import is_signed
from receipts.transfer.pages import LONGEST_LINE
from receipts.types import MAX_AHEAD, BadReceiptError, ReceiptException

OLDEST = dt.timedelta(days=2)
"""The greatest age of a receipt that is taken. Miners and validators delete their receipts after that time."""

YEARS = range(2000, 2101)
LONGEST_TTL = 30 * 86_400
LONGEST_JOB = 366 * 86_400 * 1_000_000
"""The longest time (µs) that a job may have taken."""

MOST_BLOCK = 2**32
SCORE = re.compile(r"[0-9]+(\.[0-9]+)?")
"""ComputeHorde allows 256 characters. The table and the schema have 64, so a longer one is refused as bad."""


class Refused(StrEnum):
    """Why a line of a page is not taken."""

    NOT_JSON = "not_json"
    BAD = "bad"
    """It is no receipt, or a value of it is out of bounds."""
    OTHER_MINER = "other_miner"
    """It is about another miner than the one that serves it."""
    NO_VALIDATOR = "no_validator"
    """Its validator has no permit, and had none lately."""
    AHEAD = "ahead"
    OLD = "old"
    OURS_BY_ANOTHER = "ours_by_another"
    """Another validator signed it, about a job that this site routed."""
    OTHER_VALIDATOR = "other_validator"
    """A receipt of another validator about the same job is stored."""
    UNSIGNED = "unsigned"
    """One of the two signatures is not genuine."""
    NOT_STORED = "not_stored"
    """The database refuses it."""
    TOO_MANY = "too_many"
    """The page had too many lines before it."""


class ValidatorsUnknown(ReceiptException):
    """No validator has a permit, as far as is known: before the first block is read, receipts can't be judged."""

    wait, level = 5.0, logging.INFO  # each start has such a moment

    def __init__(self) -> None:
        super().__init__(
            "The validators with a permit are not known yet, so no receipt is read. This ends with the first block "
            "that is read. If it does not, look at the source of the blocks."
        )


class Taken(NamedTuple):
    """The number of receipts that are new and stored, and the number of refused lines by reason."""

    taken: int
    refused: Counter[Refused]


class Intake:
    """Take in lines of pages. An instance has no state.

    `own` is the hotkey of this site's validator. `validators` returns the hotkeys of the validators that have a permit,
    or had one in the last 722 blocks. `routed` returns those of the given jobs that this site routed. The methods
    use the database, so they run in a thread. They need the extra `signatures`.
    """

    def __init__(
        self,
        *,
        own: str,
        validators: Callable[[], Collection[str]],
        routed: Callable[[Collection[UUID]], Collection[UUID]],
    ) -> None:
        self._own, self._validators, self._routed = own, validators, routed

    def require_validators(self) -> None:
        """Raise ValidatorsUnknown if no validator has a permit: lines that are refused are not read again."""
        if not self._validators():
            raise ValidatorsUnknown

    def take(self, miner: str, lines: Sequence[bytes], *, now: dt.datetime | None = None) -> Taken:
        """Store the receipts that count, of the lines that the miner serves.

        A receipt that is already stored does not count as taken.
        """
        at = now or clock.now()
        validators = frozenset(self._validators())
        refused: Counter[Refused] = Counter()
        read_now: list[AnyReceipt] = []
        for line in lines:
            receipt = read_line(line)
            if isinstance(receipt, Refused):
                refused[receipt] += 1
            elif reason := _why_foreign(receipt, miner, validators) or _why_untimely(receipt, at):
                refused[reason] += 1
            else:
                read_now.append(receipt)
        news = list(self._news(read_now, refused))
        return Taken(_store(news, refused, at), refused)

    def _news(self, found: Sequence[AnyReceipt], refused: Counter[Refused]) -> Iterable[AnyReceipt]:
        """Yield the receipts that are not stored yet and that their validator could sign, as it did."""
        if not found:
            return
        jobs = {receipt.job_uuid for receipt in found}
        ours = frozenset(self._routed(jobs))
        stored, believed = _stored(jobs, self._own)
        for receipt in found:
            kind = (table_of(receipt), receipt.job_uuid)
            if kind in stored:
                continue
            reason = self._why_not_believed(receipt, ours, believed)
            if not reason and not is_signed(receipt):
                reason = Refused.UNSIGNED
            if reason:
                refused[reason] += 1
                continue
            stored.add(kind)
            believed.setdefault(receipt.job_uuid, receipt.validator_hotkey)
            yield receipt

    def _why_not_believed(
        self, receipt: AnyReceipt, ours: Collection[UUID], believed: Mapping[UUID, str]
    ) -> Refused | None:
        """Return why a receipt's validator is not believed about its job. Our own validator always is."""
        if receipt.validator_hotkey == self._own:
            return None
        if receipt.job_uuid in ours:
            return Refused.OURS_BY_ANOTHER
        is_first = receipt.job_uuid not in believed
        return None if is_first or believed[receipt.job_uuid] == receipt.validator_hotkey else Refused.OTHER_VALIDATOR


def read_line(line: bytes) -> AnyReceipt | Refused:
    """Return the receipt of a line, or why it is none. The signatures are not verified yet."""
    if len(line) > LONGEST_LINE:
        return Refused.BAD
    try:
        wire = json.loads(line)
    except (ValueError, RecursionError):
        return Refused.NOT_JSON
    try:
        receipt = read(wire)
    except BadReceiptError:
        return Refused.BAD
    return receipt if _is_within_bounds(receipt, wire["payload"]) else Refused.BAD


def _is_within_bounds(receipt: AnyReceipt, payload: Mapping[str, Any]) -> bool:
    """Return whether the values are within the bounds of ComputeHorde. The schema has wider ones."""
    times = [receipt.timestamp]
    match receipt:
        case JobStarted():
            good = receipt.ttl <= LONGEST_TTL
        case JobAccepted():
            good = receipt.ttl <= LONGEST_TTL
            times.append(receipt.time_accepted)
        case JobFinished():
            good = receipt.time_took_us <= LONGEST_JOB and max(receipt.block_numbers, default=0) <= MOST_BLOCK
            good = good and SCORE.fullmatch(receipt.score_str) is not None
            times.append(receipt.time_started)
    return good and payload["job_uuid"] == str(receipt.job_uuid) and all(time.year in YEARS for time in times)


def _why_foreign(receipt: AnyReceipt, miner: str, validators: Collection[str]) -> Refused | None:
    if receipt.miner_hotkey != miner:
        return Refused.OTHER_MINER
    return None if receipt.validator_hotkey in validators else Refused.NO_VALIDATOR


def _why_untimely(receipt: AnyReceipt, now: dt.datetime) -> Refused | None:
    if receipt.timestamp > now + MAX_AHEAD:
        return Refused.AHEAD
    return Refused.OLD if receipt.timestamp < now - OLDEST else None


def _stored(jobs: Collection[UUID], own: str) -> tuple[set[tuple[type[Row], UUID]], dict[UUID, str]]:
    """Return the kinds of receipts that are stored for some jobs, and the validator who is believed, by job.

    A voided receipt is still stored, but its validator is not believed for it.
    """
    stored: set[tuple[type[Row], UUID]] = set()
    believed: dict[UUID, str] = {}
    for table in TABLES.values():
        rows = table._default_manager.filter(job_uuid__in=jobs)
        for job, validator, voided_at in rows.values_list("job_uuid", "validator_hotkey", "voided_at"):
            stored.add((table, job))
            if voided_at is None and (job not in believed or validator == own):
                believed[job] = validator
    return stored, believed


def _store(news: Sequence[AnyReceipt], refused: Counter[Refused], now: dt.datetime) -> int:
    """Store receipts and return their number. If the database refuses them, store them one by one."""
    if not news:
        return 0
    try:
        bad = receipts().record_many(news, now=now)
        refused[Refused.NOT_STORED] += len(bad)
        return len(news) - len(bad)
    except (DataError, IntegrityError):
        pass
    stored = 0
    for receipt in news:
        try:
            receipts().record(receipt, now=now)
            stored += 1
        except (DataError, IntegrityError):
            refused[Refused.NOT_STORED] += 1
    return stored
