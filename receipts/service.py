"""Record receipts, and count the executors that they keep busy.

Each method of `Receipts` has a coroutine with the prefix `a` that does the same.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any
from uuid import UUID

from django.db import transaction

from allowance import clock
from allowance.plumbing.connections import renews_connection
from allowance.plumbing.database import alias
from allowance.plumbing.threads import coroutine_twin
from receipts.models import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt, Receipt
from receipts.schemas import AnyReceipt, JobAccepted, JobFinished, JobStarted, bounded, read
from receipts.types import MAX_AHEAD, MAX_TTL, BadReceiptError, Refusal

logger = logging.getLogger(__name__)

TABLES: dict[type[AnyReceipt], type[Receipt]] = {
    JobStarted: JobStartedReceipt,
    JobAccepted: JobAcceptedReceipt,
    JobFinished: JobFinishedReceipt,
}

BATCH = 500
"""The maximum number of rows in one INSERT."""


@renews_connection
class Receipts:
    """Record receipts and count busy executors. An instance has no state.

    A receipt is an instance of a class in `receipts.schemas`, or a dict in the format of the wire. The signatures of a
    dict are stored without verification. To verify them, use `receipts.signatures`. A ttl above MAX_TTL is clipped to
    MAX_TTL, with a warning in the log.
    """

    def record(
        self, receipt: AnyReceipt | Mapping[str, Any], *, most: int = MAX_TTL, now: dt.datetime | None = None
    ) -> None:
        """Record a receipt. A second receipt of the same kind for the same job changes nothing.

        `most` is the longest time (s) that the job can last; a longer ttl is clipped to it. Raises BadReceiptError, a
        ValueError, for an invalid receipt or `most`, and for a receipt dated more than MAX_AHEAD after `now`.
        """
        if not isinstance(most, int) or isinstance(most, bool) or most < 0:
            raise BadReceiptError(f"most must be a whole number of seconds, 0 or more, not {most!r:.80}.")
        checked = _check(receipt, now or clock.now())
        _store([_clip([checked], most)[0]])

    def record_many(
        self, receipts: Iterable[AnyReceipt | Mapping[str, Any]], *, now: dt.datetime | None = None
    ) -> list[Refusal]:
        """Record receipts, and return the refusals of the bad ones. A bad receipt does not affect the others.

        A second receipt of the same kind for the same job is neither stored nor refused.
        """
        at = now or clock.now()
        good: list[AnyReceipt] = []
        refused: list[Refusal] = []
        for index, receipt in enumerate(receipts):
            try:
                good.append(_check(receipt, at))
            except BadReceiptError as error:
                refused.append(Refusal(index, _job(receipt), str(error)))
        _store(_clip(good))
        return refused

    def get_busy_executor_count(self, executor_class: str, at_time: dt.datetime) -> dict[str, int]:
        """Return the number of busy executors of a class at `at_time`, by hotkey. Idle miners are left out.

        A job is ongoing if its started receipt, or else its accepted receipt, is valid at that time (both ends
        inclusive), and if it has no finished receipt dated at or before that time. Voided receipts do not count.
        """
        started = JobStartedReceipt.objects.running(executor_class, at_time).values_list("miner_hotkey")
        accepted = JobAcceptedReceipt.objects.running(executor_class, at_time).values_list("miner_hotkey")
        return dict(Counter(hotkey for (hotkey,) in started.union(accepted, all=True)))

    arecord = coroutine_twin(record)
    arecord_many = coroutine_twin(record_many)
    aget_busy_executor_count = coroutine_twin(get_busy_executor_count)


def _check(receipt: AnyReceipt | Mapping[str, Any], now: dt.datetime) -> AnyReceipt:
    checked = read(receipt)
    if checked.timestamp > now + MAX_AHEAD:
        raise BadReceiptError(
            f"timestamp: {checked.timestamp.isoformat()} is more than {MAX_AHEAD.total_seconds():g} s ahead of "
            f"{now.isoformat()}, the time of this host. Correct the clock that is wrong, or record the receipt later."
        )
    return checked


def _clip(receipts: list[AnyReceipt], most: int = MAX_TTL) -> list[AnyReceipt]:
    """Return the receipts with their ttl bounded. If any was too long, log one warning."""
    kept = [bounded(receipt, most) for receipt in receipts]
    longer = [before for before, after in zip(receipts, kept, strict=True) if before is not after]
    if longer:
        logger.warning(
            "The ttl of %d of %d receipts was too long and was clipped to %d s, for example for job %s.",
            *(len(longer), len(receipts), min(most, MAX_TTL), longer[0].job_uuid),
        )
    return kept


def table_of(receipt: AnyReceipt) -> type[Receipt]:
    """Return the model whose rows are receipts of this kind."""
    return TABLES[_kind_of(receipt)]


def _kind_of(receipt: AnyReceipt) -> type[AnyReceipt]:
    return next(kind for kind in TABLES if isinstance(receipt, kind))


def _store(receipts: list[AnyReceipt]) -> None:
    rows: dict[type[Receipt], list[Receipt]] = {table: [] for table in TABLES.values()}
    # All transactions insert in the same order, so two transactions with the same jobs can't deadlock.
    for receipt in sorted(receipts, key=attrgetter("job_uuid")):
        kind = _kind_of(receipt)
        rows[TABLES[kind]].append(TABLES[kind](**{name: _column(getattr(receipt, name)) for name in kind.model_fields}))
    with transaction.atomic(alias(), savepoint=False):
        for table, of_table in rows.items():
            table._default_manager.bulk_create(of_table, ignore_conflicts=True, batch_size=BATCH)


def _column(value: object) -> object:
    return "" if value is None else value


def _job(receipt: object) -> UUID | None:
    """Return the job that a refused receipt names, or None."""
    if isinstance(receipt, AnyReceipt):
        return getattr(receipt, "job_uuid", None)
    payload = receipt.get("payload") if isinstance(receipt, Mapping) else None
    named = payload.get("job_uuid") if isinstance(payload, Mapping) else None
    try:
        return UUID(named) if isinstance(named, str) else None
    except ValueError:
        return None
