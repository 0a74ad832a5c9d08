"""Record receipts; count the executors that they keep busy."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import Any
from uuid import UUID

from django.db.models import BigIntegerField, Exists, OuterRef, Q, QuerySet, Value

from receipts.models import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt, Receipt
from receipts.schemas import JobAccepted, JobFinished, JobStarted

TABLES: dict[type[JobStarted | JobAccepted | JobFinished], type[Receipt]] = {
    JobStarted: JobStartedReceipt,
    JobAccepted: JobAcceptedReceipt,
    JobFinished: JobFinishedReceipt,
}


class Receipts:
    """Record and count. Holds no state."""

    def record(self, receipt: JobStarted | JobAccepted | JobFinished) -> None:
        """Record a receipt. A second one of its kind for the same job changes nothing."""
        kind, table = next((kind, table) for kind, table in TABLES.items() if isinstance(receipt, kind))
        row = table(**{name: getattr(receipt, name) for name in kind.model_fields})
        table._default_manager.bulk_create([row], ignore_conflicts=True)

    def get_busy_executor_count(self, executor_class: str, at_time: dt.datetime) -> dict[str, int]:
        """Return how many executors of a class each miner has busy at `at_time`, by hotkey; idle ones are left out.

        A job is ongoing while its started receipt, or else its accepted one, is valid (both edges inside) and no
        finished receipt written by then ends it.
        """
        return dict(Counter(miner for miner, _, _ in self.ongoing_jobs(executor_class, at_time)))

    def ongoing_jobs(
        self, executor_class: str, at_time: dt.datetime, miner: str | None = None
    ) -> QuerySet[Any, tuple[str, UUID, int]]:
        """Select (hotkey, job, 0) of the jobs ongoing at `at_time`, of all miners or of one.

        An accepted receipt does not tell the class; the job's started receipt does, even when it is no longer valid.
        The third column is room for callers that unite this with jobs that have no uuid.
        """
        valid = Q(timestamp__lte=at_time, valid_until__gte=at_time)
        mine = Q() if miner is None else Q(miner_hotkey=miner)
        over = Exists(JobFinishedReceipt.objects.filter(job_uuid=OuterRef("job_uuid"), timestamp__lte=at_time))
        of_job = JobStartedReceipt.objects.filter(job_uuid=OuterRef("job_uuid"))
        started = JobStartedReceipt.objects.filter(valid & mine, ~over, executor_class=executor_class)
        accepted = JobAcceptedReceipt.objects.filter(
            valid & mine, ~over, Exists(of_job.filter(executor_class=executor_class)), ~Exists(of_job.filter(valid))
        )
        columns = ("miner_hotkey", "job_uuid", Value(0, BigIntegerField()))
        return started.values_list(*columns).union(accepted.values_list(*columns), all=True)

    def finished(self, job_uuid: OuterRef) -> Exists:
        """Return the condition, for a query of another app, that a finished receipt exists for its `job_uuid`."""
        return Exists(JobFinishedReceipt.objects.filter(job_uuid=job_uuid))
