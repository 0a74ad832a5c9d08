"""The jobs that are running according to receipts, found in SQL: the ORM takes longer than the database."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Sequence
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import DateTimeField, Exists, OuterRef, Q, Value
from django.db.models.functions import Greatest

from receipts.models import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt
from receipts.types import MAX_TTL

LONGEST = dt.timedelta(seconds=MAX_TTL)

STARTED, ACCEPTED, FINISHED = (
    connection.ops.quote_name(model._meta.db_table)
    for model in (JobStartedReceipt, JobAcceptedReceipt, JobFinishedReceipt)
)

# A job is ongoing at a time if its started receipt, or else its accepted receipt, is valid then (both ends inclusive),
# and if it has no finished receipt dated at or before that time. An accepted receipt does not name the class. The class
# comes from the job's started receipt, even if that receipt is no longer valid. A voided receipt does not count. A
# receipt keeps an executor busy for at most MAX_TTL, even if its row has a later end: rows can be loaded or changed
# without the checks. Each half looks up the finished receipts itself. With one lookup for both halves, PostgreSQL would
# start parallel workers when there are many receipts. The last column distinguishes these rows from rows that a caller
# adds with UNION.
_SQL = f"""
    SELECT s.miner_hotkey AS hotkey, CAST(s.job_uuid AS text) AS job, 0
    FROM {STARTED} s
    WHERE s.executor_class = %(executor_class)s AND s.valid_until >= %(at)s
      AND s.timestamp <= %(at)s AND s.timestamp >= %(oldest)s {{started_by}}
      AND s.voided_at IS NULL
      AND NOT EXISTS (
          SELECT 1 FROM {FINISHED} f WHERE f.job_uuid = s.job_uuid AND f.timestamp <= %(at)s AND f.voided_at IS NULL
      )
    UNION ALL
    SELECT a.miner_hotkey, CAST(a.job_uuid AS text), 0
    FROM {ACCEPTED} a JOIN {STARTED} s ON s.job_uuid = a.job_uuid
    WHERE a.valid_until >= %(at)s AND a.timestamp <= %(at)s AND a.timestamp >= %(oldest)s
      AND s.executor_class = %(executor_class)s {{accepted_by}}
      AND NOT (s.valid_until >= %(at)s AND s.timestamp <= %(at)s AND s.timestamp >= %(oldest)s)
      AND a.voided_at IS NULL AND s.voided_at IS NULL
      AND NOT EXISTS (
          SELECT 1 FROM {FINISHED} f WHERE f.job_uuid = a.job_uuid AND f.timestamp <= %(at)s AND f.voided_at IS NULL
      )
"""  # noqa: S608 (only our tables' names are filled in)

RUNNING_JOBS = _SQL.format(started_by="", accepted_by="")
"""SQL that selects (hotkey, job UUID as text, 0) of each job of `executor_class` that is ongoing at the time `at`."""

RUNNING_JOBS_OF_MINER = _SQL.format(
    started_by="AND s.miner_hotkey = %(miner)s", accepted_by="AND a.miner_hotkey = %(miner)s"
)
"""The same SQL for the jobs at one `miner`."""


def ends(executor_class: str, miners: Collection[str], at: dt.datetime) -> dict[tuple[str, UUID], dt.datetime]:
    """Return the times at which the receipts of ongoing jobs end, by (miner, job), for a class and some miners.

    If a job has a started and an accepted receipt, the later end counts.
    """
    finished = JobFinishedReceipt.objects.filter(job_uuid=OuterRef("job_uuid"), timestamp__lte=at, voided_at=None)
    dated = Q(timestamp__lte=at, timestamp__gte=at - LONGEST, valid_until__gte=at)
    valid = Q(dated, ~Exists(finished), miner_hotkey__in=miners, voided_at=None)
    of_class = JobStartedReceipt.objects.filter(executor_class=executor_class, voided_at=None)
    started = of_class.filter(job_uuid=OuterRef("job_uuid"))
    elsewhere = started.filter(dated).exclude(miner_hotkey=OuterRef("miner_hotkey"))
    accepted = JobAcceptedReceipt.objects.filter(valid, Exists(started), ~Exists(elsewhere))
    found: dict[tuple[str, UUID], dt.datetime] = {}
    for receipts in (of_class.filter(valid), accepted):
        for miner, job, timestamp, valid_until in receipts.values_list(
            "miner_hotkey", "job_uuid", "timestamp", "valid_until"
        ):
            until = min(valid_until, timestamp + LONGEST)
            found[miner, job] = max(until, found.get((miner, job), until))
    return found


Lasting = type[JobStartedReceipt] | type[JobAcceptedReceipt]


def end(
    job_uuid: UUID, miner: str, at: dt.datetime, *, of: Iterable[Lasting] = (JobStartedReceipt, JobAcceptedReceipt)
) -> None:
    """End the validity of a job's receipts from one miner at the time `at`. Only their `valid_until` changes."""
    for model in of:
        receipts = model.objects.filter(job_uuid=job_uuid, miner_hotkey=miner, valid_until__gt=at)
        receipts.update(valid_until=Greatest("timestamp", Value(at, DateTimeField())))


def select(sql: str, *, at: dt.datetime, **parameters: Any) -> list[Sequence[Any]]:
    """Run `sql`, one of the queries above or a union with one, and return its rows."""
    with connection.cursor() as cursor:
        times = {"at": at, "oldest": at - LONGEST}
        adapted = {name: connection.ops.adapt_datetimefield_value(time) for name, time in times.items()}
        cursor.execute(sql, {**parameters, **adapted})
        rows: list[Sequence[Any]] = cursor.fetchall()
    return rows
