"""Which jobs keep a miner's executors busy, and which holds have lapsed."""

from __future__ import annotations

import datetime as dt
import json
from collections import defaultdict
from dataclasses import dataclass, field
from uuid import UUID

from django.db import connection

from allowance.models import Account, Reservation
from allowance.state import HELD, LAPSED_AT, Lapsed
from receipts.ongoing import FINISHED, RUNNING_JOBS, RUNNING_JOBS_OF_MINER, select_jobs

ACCOUNT, RESERVATION = (connection.ops.quote_name(model._meta.db_table) for model in (Account, Reservation))

# First in the unions, because it tells PostgreSQL the type of the last column.
_HOLDS = f"""
    SELECT c.miner_id, r.job_uuid, r.id, CASE WHEN {LAPSED_AT} THEN r.blocks END
    FROM {RESERVATION} r JOIN {ACCOUNT} c ON c.id = r.account_id
    WHERE {HELD} AND c.executor_class = %(executor_class)s
      AND ({LAPSED_AT} OR NOT EXISTS (SELECT 1 FROM {FINISHED} f WHERE f.job_uuid = r.job_uuid))
"""  # noqa: S608 (only our tables' names are filled in)

_ALL = f"{_HOLDS} UNION ALL {RUNNING_JOBS}"
_OF_MINER = f"{_HOLDS} AND c.miner_id = %(miner)s UNION ALL {RUNNING_JOBS_OF_MINER}"


@dataclass(slots=True)
class Occupation:
    """Ongoing jobs by hotkey (those without a uuid by their reservation's id), and holds that lapsed untidied."""

    jobs: defaultdict[str, set[UUID | int]] = field(default_factory=lambda: defaultdict(set))
    lapsed: list[Lapsed] = field(default_factory=list)


def occupation(executor_class: str, now: dt.datetime, miner: str | None = None) -> Occupation:
    """Return what occupies a class at `now`, of all miners or of one. One query.

    Ongoing are the jobs that receipts say are running, and those whose reservation is held and that no finished receipt
    ends; each job once.
    """
    found = Occupation()
    for hotkey, job, pk, blocks in select_jobs(_ALL if miner is None else _OF_MINER, executor_class, now, miner):
        if blocks is None:
            found.jobs[hotkey].add(job or pk)
        else:
            found.lapsed.append(Lapsed(hotkey, pk, json.loads(blocks)))
    return found
