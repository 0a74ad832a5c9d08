"""Which jobs keep a miner's executors busy."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from uuid import UUID

from django.db.models import OuterRef

from allowance.models import Reservation
from allowance.reservations import held_at
from receipts import receipts


def ongoing_jobs(executor_class: str, now: dt.datetime, miner: str | None = None) -> dict[str, set[UUID | int]]:
    """Return the jobs ongoing at `now` in a class by hotkey, of all miners or of one.

    Ongoing are the jobs that receipts say are running, and those whose reservation is held and that no finished receipt
    ends; each job once. A reservation without a job counts as a job of its own, under its id.
    """
    held = Reservation.objects.filter(
        held_at(now), ~receipts().finished(OuterRef("job_uuid")), account__executor_class=executor_class
    )
    if miner is not None:
        held = held.filter(account__miner=miner)
    jobs: defaultdict[str, set[UUID | int]] = defaultdict(set)
    running = receipts().ongoing_jobs(executor_class, now, miner)
    for hotkey, job, pk in running.union(held.values_list("account__miner", "job_uuid", "pk"), all=True):
        jobs[hotkey].add(job or pk)
    return jobs
