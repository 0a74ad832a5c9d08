"""Which jobs keep miners' executors busy, and which holds of a miner have lapsed."""

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
    WHERE {HELD} AND c.executor_class = %(executor_class)s
"""

_HELD_JOBS = f"""
    SELECT c.miner_id, r.job_uuid, r.id, NULL {_HOLDS} AND NOT ({LAPSED_AT}) {{of_miner}}
      AND NOT EXISTS (SELECT 1 FROM {FINISHED} f WHERE f.job_uuid = r.job_uuid)
    UNION ALL
"""  # noqa: S608

_OF_MINER = "AND c.miner_id = %(miner)s"

# The lapsed ones come first in the union: they tell PostgreSQL the type of the last column. They are not one select
# with the live ones, because with an OR it would read all finished receipts there are.
_LAPSED_OF_MINER = f"""
    SELECT c.miner_id, r.job_uuid, r.id, r.blocks {_HOLDS} AND {LAPSED_AT} {_OF_MINER}
    UNION ALL
"""

ONGOING = _HELD_JOBS.format(of_miner="") + RUNNING_JOBS
OCCUPATION = _LAPSED_OF_MINER + _HELD_JOBS.format(of_miner=_OF_MINER) + RUNNING_JOBS_OF_MINER

Jobs = set[UUID | int]
"""Jobs by their uuid; those without one by their reservation's id."""


def ongoing(executor_class: str, now: dt.datetime) -> dict[str, Jobs]:
    """Return the jobs of a class that are ongoing at `now`, by hotkey. One query.

    They are the jobs that receipts say are running, and those whose reservation is held and that no finished receipt
    ends; each job once.
    """
    jobs: defaultdict[str, Jobs] = defaultdict(set)
    for hotkey, job, pk, _ in select_jobs(ONGOING, executor_class, now):
        jobs[hotkey].add(job or pk)
    return jobs


@dataclass(slots=True)
class Occupation:
    """A miner's ongoing jobs, and its holds that lapsed and that nobody has tidied up."""

    jobs: Jobs = field(default_factory=set)
    lapsed: list[Lapsed] = field(default_factory=list)


def occupation(executor_class: str, now: dt.datetime, miner: str) -> Occupation:
    """Return what occupies a miner in a class at `now`. One query; `ongoing` says what counts."""
    found = Occupation()
    for _, job, pk, blocks in select_jobs(OCCUPATION, executor_class, now, miner):
        if blocks is None:
            found.jobs.add(job or pk)
        else:
            found.lapsed.append(Lapsed(pk, json.loads(blocks)))
    return found
