"""The ongoing jobs, which keep the executors of miners busy, and the expired reservations of a miner."""

from __future__ import annotations

import datetime as dt
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from django.db import connection

from allowance.interface import (
    CHAIN_LOCK,
    EXPIRED_AT,
    HELD,
    MINER,
    RESERVATION,
    Account,
    Hold,
    MinerRow,
    as_list,
    in_list,
    parse_steps,
)
from receipts.interface import FINISHED, RUNNING_JOBS, RUNNING_JOBS_OF_MINER, select
from routing.decision import in_force

RUNNING, FINISHED_ONE = 0, 1

# IN_FORCE is part of this statement, which saves one query.
ONGOING = f"""
    {RUNNING_JOBS}
    UNION ALL
    SELECT '', CAST(f.job_uuid AS text), {FINISHED_ONE} FROM {FINISHED} f
    WHERE {in_list("f.job_uuid", "held", "uuid")} AND f.voided_at IS NULL
    UNION ALL
    {in_force.IN_FORCE}
"""  # noqa: S608

# There is one row for each ongoing job and each expired reservation of the miner, or one row if it has neither.
OCCUPATION = f"""
    SELECT m.address, m.ip_version, m.port, m.wei, m.presence, (SELECT version FROM {CHAIN_LOCK}),
           j.job, j.reservation, j.blocks
    FROM {MINER} m LEFT JOIN (
        SELECT '' AS hotkey, CAST(r.job_uuid AS text) AS job, r.id AS reservation,
               CASE WHEN {EXPIRED_AT} THEN r.blocks END AS blocks
        FROM {RESERVATION} r LEFT JOIN {FINISHED} f ON f.job_uuid = r.job_uuid AND f.voided_at IS NULL
        WHERE {HELD} AND r.account_id = %(account)s AND ({EXPIRED_AT} OR f.job_uuid IS NULL)
        UNION ALL
        SELECT running.*, NULL FROM ({RUNNING_JOBS_OF_MINER}) running
    ) j ON TRUE
    WHERE m.hotkey = %(miner)s
"""  # noqa: S608

Jobs = set[str | int]
"""Jobs, by the uuid as the database writes it. A job without a uuid is named by the id of its reservation."""


def as_text(job: UUID) -> str:
    """Return a job's uuid as the database writes it. UUID objects are slower to look up."""
    return str(job) if connection.features.has_native_uuid_field else job.hex


class Observed(NamedTuple):
    """The ongoing jobs of a class by hotkey, and what is in force for the class."""

    ongoing: dict[str, Jobs]
    in_force: in_force.InForce


def observe(executor_class: str, now: dt.datetime, holds: Mapping[str, Iterable[Hold]]) -> Observed:
    """Return the ongoing jobs of a class and what is in force for it, in one query.

    A job is ongoing if receipts say that it runs at `now`, or if it has one of the live reservations in `holds` and no
    finished receipt. Each job counts once.
    """
    held = as_list(hold.job for of_miner in holds.values() for hold in of_miner if hold.job)
    rows = select(ONGOING, at=now, held=held, **in_force.parameters(executor_class))
    jobs: defaultdict[str, Jobs] = defaultdict(set)
    for hotkey, job, kind in rows:
        if kind == RUNNING:
            jobs[hotkey].add(job)
    finished = {job for _, job, kind in rows if kind == FINISHED_ONE}
    for hotkey, of_miner in holds.items():
        jobs[hotkey].update([hold.job or hold.pk for hold in of_miner if hold.job not in finished])
    return Observed(jobs, in_force.parse(rows))


@dataclass(slots=True)
class Occupation:
    """A miner, its ongoing jobs in a class, and its reservations there that have expired but are still stored as held.

    `expired` has the numbers of their blocks by reservation id. `chain_version` is the version of the chain at the time
    of the query.
    """

    miner: MinerRow
    chain_version: int
    jobs: Jobs = field(default_factory=set)
    expired: dict[int, list[int]] = field(default_factory=dict)


def occupation(account: Account, now: dt.datetime) -> Occupation:
    """Return what occupies the miner of an account at `now`, in one query. `observe` says which jobs are ongoing."""
    rows = select(OCCUPATION, executor_class=account.executor_class, at=now, account=account.pk, miner=account.miner_id)
    address, ip_version, port, wei, presence, chain_version, *_ = rows[0]
    miner = MinerRow(
        hotkey=account.miner_id,
        address=address,
        ip_version=ip_version,
        port=port,
        wei=int(wei),
        presence=parse_steps(presence),
    )
    found = Occupation(miner, chain_version)
    for *_, job, reservation, blocks in rows:
        if blocks is not None:
            found.expired[reservation] = json.loads(blocks)
        elif job or reservation:
            found.jobs.add(job or reservation)
    return found
