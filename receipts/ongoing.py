"""Which jobs the receipts say are running: one statement, in SQL, because the ORM takes longer than the database."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
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

# A job is ongoing while its started receipt, or else its accepted one, is valid (both edges inside) and no finished
# receipt written by then ends it. An accepted receipt does not tell the class; the job's started receipt does, even
# when it is no longer valid. A voided receipt counts as if it were not there. No receipt keeps an executor busy for
# longer than MAX_TTL, whatever its row says: rows can be loaded or changed past the checks. What is finished is looked
# up in each half: for both together PostgreSQL would start parallel workers once there are many. The last column
# is room for callers that unite this with jobs of other sources.
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
"""Select (hotkey, job as text, 0) of the jobs of class `executor_class` that are ongoing `at` a time."""

RUNNING_JOBS_OF_MINER = _SQL.format(
    started_by="AND s.miner_hotkey = %(miner)s", accepted_by="AND a.miner_hotkey = %(miner)s"
)
"""The same, of one `miner`."""


def ends(executor_class: str, miners: Collection[str], at: dt.datetime) -> dict[tuple[str, UUID], dt.datetime]:
    """Return until when receipts keep the ongoing jobs of a class busy at some miners, by miner and job.

    A job that has a started and an accepted receipt is busy until the later one ends.
    """
    finished = JobFinishedReceipt.objects.filter(job_uuid=OuterRef("job_uuid"), timestamp__lte=at, voided_at=None)
    dated = Q(timestamp__lte=at, timestamp__gte=at - LONGEST, valid_until__gte=at)
    valid = Q(dated, ~Exists(finished), miner_hotkey__in=miners, voided_at=None)
    of_class = JobStartedReceipt.objects.filter(executor_class=executor_class, voided_at=None)
    accepted = JobAcceptedReceipt.objects.filter(valid, Exists(of_class.filter(job_uuid=OuterRef("job_uuid"))))
    found: dict[tuple[str, UUID], dt.datetime] = {}
    for receipts in (of_class.filter(valid), accepted):
        for miner, job, timestamp, valid_until in receipts.values_list(
            "miner_hotkey", "job_uuid", "timestamp", "valid_until"
        ):
            until = min(valid_until, timestamp + LONGEST)
            found[miner, job] = max(until, found.get((miner, job), until))
    return found


def end(job_uuid: UUID, miner: str, at: dt.datetime) -> None:
    """Let no receipt of a job keep an executor of a miner busy after `at`. What the receipts say stays as it is."""
    for model in (JobStartedReceipt, JobAcceptedReceipt):
        receipts = model.objects.filter(job_uuid=job_uuid, miner_hotkey=miner, valid_until__gt=at)
        receipts.update(valid_until=Greatest("timestamp", Value(at, DateTimeField())))


def select(sql: str, *, at: dt.datetime, **parameters: Any) -> list[Sequence[Any]]:
    """Run `sql`, one of the above or a union with it, and return its rows."""
    with connection.cursor() as cursor:
        times = {"at": at, "oldest": at - LONGEST}
        adapted = {name: connection.ops.adapt_datetimefield_value(time) for name, time in times.items()}
        cursor.execute(sql, {**parameters, **adapted})
        rows: list[Sequence[Any]] = cursor.fetchall()
    return rows
