"""Which jobs keep a miner's executors busy, and which holds have lapsed."""

from __future__ import annotations

import datetime as dt
import json
from collections import defaultdict
from dataclasses import dataclass, field
from uuid import UUID

from allowance.state import ACCOUNT, HELD, LAPSED_AT, RESERVATION, Lapsed
from receipts.ongoing import FINISHED, RUNNING_JOBS, RUNNING_JOBS_OF_MINER, select_jobs

_HOLDS = f"""
    FROM {RESERVATION} r JOIN {ACCOUNT} c ON c.id = r.account_id
    WHERE {HELD} AND c.executor_class = %(executor_class)s {{of_miner}}
"""

# The lapsed ones come first in the union: they tell PostgreSQL the type of the last column. They are not one select
# with the live ones, because with an OR it would read all finished receipts there are.
_SQL = f"""
    SELECT c.miner_id, r.job_uuid, r.id, r.blocks {_HOLDS} AND {LAPSED_AT}
    UNION ALL
    SELECT c.miner_id, r.job_uuid, r.id, NULL {_HOLDS} AND NOT ({LAPSED_AT})
      AND NOT EXISTS (SELECT 1 FROM {FINISHED} f WHERE f.job_uuid = r.job_uuid)
    UNION ALL
"""  # noqa: S608 (only our tables' names are filled in)

OCCUPATION = _SQL.format(of_miner="") + RUNNING_JOBS
OCCUPATION_OF_MINER = _SQL.format(of_miner="AND c.miner_id = %(miner)s") + RUNNING_JOBS_OF_MINER


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
    sql = OCCUPATION if miner is None else OCCUPATION_OF_MINER
    found = Occupation()
    for hotkey, job, pk, blocks in select_jobs(sql, executor_class, now, miner):
        if blocks is None:
            found.jobs[hotkey].add(job or pk)
        else:
            found.lapsed.append(Lapsed(hotkey, pk, json.loads(blocks)))
    return found
