"""Record receipts; count the executors that they keep busy."""

from __future__ import annotations

import datetime as dt
from collections import Counter

from receipts.connections import renews_connection
from receipts.models import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt, Receipt
from receipts.ongoing import RUNNING_JOBS, select
from receipts.schemas import JobAccepted, JobFinished, JobStarted

TABLES: dict[type[JobStarted | JobAccepted | JobFinished], type[Receipt]] = {
    JobStarted: JobStartedReceipt,
    JobAccepted: JobAcceptedReceipt,
    JobFinished: JobFinishedReceipt,
}


@renews_connection
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
        return dict(Counter(hotkey for hotkey, *_ in select(RUNNING_JOBS, executor_class=executor_class, at=at_time)))
