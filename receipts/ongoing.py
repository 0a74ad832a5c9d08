"""Which jobs the receipts say are running: one statement, in SQL, because the ORM takes longer than the database."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from django.db import connection

from receipts.models import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt

STARTED, ACCEPTED, FINISHED = (
    connection.ops.quote_name(model._meta.db_table)
    for model in (JobStartedReceipt, JobAcceptedReceipt, JobFinishedReceipt)
)

# A job is ongoing while its started receipt, or else its accepted one, is valid (both edges inside) and no finished
# receipt written by then ends it. An accepted receipt does not tell the class; the job's started receipt does, even
# when it is no longer valid. What is finished is looked up in each half: for both together PostgreSQL would start
# parallel workers once there are many. The last column is room for callers that unite this with jobs of other sources.
_SQL = f"""
    SELECT s.miner_hotkey AS hotkey, CAST(s.job_uuid AS text) AS job, 0
    FROM {STARTED} s
    WHERE s.executor_class = %(executor_class)s AND s.valid_until >= %(at)s AND s.timestamp <= %(at)s {{started_by}}
      AND NOT EXISTS (SELECT 1 FROM {FINISHED} f WHERE f.job_uuid = s.job_uuid AND f.timestamp <= %(at)s)
    UNION ALL
    SELECT a.miner_hotkey, CAST(a.job_uuid AS text), 0
    FROM {ACCEPTED} a JOIN {STARTED} s ON s.job_uuid = a.job_uuid
    WHERE a.valid_until >= %(at)s AND a.timestamp <= %(at)s AND s.executor_class = %(executor_class)s {{accepted_by}}
      AND NOT (s.valid_until >= %(at)s AND s.timestamp <= %(at)s)
      AND NOT EXISTS (SELECT 1 FROM {FINISHED} f WHERE f.job_uuid = a.job_uuid AND f.timestamp <= %(at)s)
"""  # noqa: S608 (only our tables' names are filled in)

RUNNING_JOBS = _SQL.format(started_by="", accepted_by="")
"""Select (hotkey, job as text, 0) of the jobs of class `executor_class` that are ongoing `at` a time."""

RUNNING_JOBS_OF_MINER = _SQL.format(
    started_by="AND s.miner_hotkey = %(miner)s", accepted_by="AND a.miner_hotkey = %(miner)s"
)
"""The same, of one `miner`."""


def select(sql: str, *, at: dt.datetime, **parameters: Any) -> list[Sequence[Any]]:
    """Run `sql`, one of the above or a union with it, and return its rows."""
    with connection.cursor() as cursor:
        cursor.execute(sql, {**parameters, "at": connection.ops.adapt_datetimefield_value(at)})
        rows: list[Sequence[Any]] = cursor.fetchall()
    return rows
