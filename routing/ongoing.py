"""Which jobs keep a miner's executors busy."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from uuid import UUID

from django.db import connection

from allowance.models import Account, Reservation
from allowance.state import HELD_AT
from receipts.ongoing import FINISHED, RUNNING_JOBS, RUNNING_JOBS_OF_MINER, select_jobs

ACCOUNT, RESERVATION = (connection.ops.quote_name(model._meta.db_table) for model in (Account, Reservation))

_HELD = f"""
    SELECT c.miner_id, r.job_uuid, r.id
    FROM {RESERVATION} r JOIN {ACCOUNT} c ON c.id = r.account_id
    WHERE {HELD_AT} AND c.executor_class = %(executor_class)s
      AND NOT EXISTS (SELECT 1 FROM {FINISHED} f WHERE f.job_uuid = r.job_uuid)
"""  # noqa: S608 (only our tables' names are filled in)

ONGOING_JOBS = f"{RUNNING_JOBS} UNION ALL {_HELD}"
ONGOING_JOBS_OF_MINER = f"{RUNNING_JOBS_OF_MINER} UNION ALL {_HELD} AND c.miner_id = %(miner)s"


def ongoing_jobs(executor_class: str, now: dt.datetime, miner: str | None = None) -> dict[str, set[UUID | int]]:
    """Return the jobs ongoing at `now` in a class by hotkey, of all miners or of one. One query.

    Ongoing are the jobs that receipts say are running, and those whose reservation is held and that no finished receipt
    ends; each job once. A reservation without a job counts as a job of its own, under its id.
    """
    sql = ONGOING_JOBS if miner is None else ONGOING_JOBS_OF_MINER
    jobs: defaultdict[str, set[UUID | int]] = defaultdict(set)
    for hotkey, job, pk in select_jobs(sql, executor_class, now, miner):
        jobs[hotkey].add(job or pk)
    return jobs
