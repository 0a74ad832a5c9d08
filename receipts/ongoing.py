"""The jobs that are ongoing according to receipts: read, remembered, and ended."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import Case, DateTimeField, Exists, F, OuterRef, QuerySet, Subquery, Value, When
from django.db.models.functions import Greatest

from allowance.plumbing.union import Row, arm
from receipts.models import LONGEST, JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt, ReceiptQuerySet

JOB = 10

TICK = dt.timedelta(microseconds=1)
"""The resolution of timestamps."""


class Interval(NamedTuple):
    """The time for which a receipt keeps an executor of a miner busy, both ends inclusive."""

    miner: str
    since: dt.datetime
    until: dt.datetime

    @classmethod
    def of(cls, miner: str | None, since: dt.datetime | None, until: dt.datetime | None) -> Interval | None:
        """Return the interval of a receipt that counts, or None if there is none."""
        return cls(miner, since, min(until, since + LONGEST)) if miner and since and until else None

    def contains(self, now: dt.datetime) -> bool:
        return self.since <= now <= self.until


class Job(NamedTuple):
    """The known receipts of a job that count. `finished` is the timestamp of its finished receipt.

    `holders` are the miners that have, or had, a reservation for the job.
    """

    started: Interval | None = None
    accepted: Interval | None = None
    finished: dt.datetime | None = None
    holders: frozenset[str] = frozenset()

    def miner(self, now: dt.datetime) -> str | None:
        """Return the miner on which the job runs according to its receipts, or None."""
        if self.finished and self.finished <= now:
            return None
        if self.started and self.started.contains(now):
            return self.started.miner
        if self.started and self.accepted and self.accepted.contains(now):
            return self.accepted.miner  # the class is that of the started receipt
        return None

    @property
    def miners(self) -> frozenset[str]:
        """The miners that the job keeps busy at some time, according to its receipts."""
        return frozenset(receipt.miner for receipt in (self.started, self.accepted) if receipt)

    @property
    def instants(self) -> Iterator[dt.datetime]:
        """The times at which the job begins or ceases to run, according to its receipts."""
        for receipt in (self.started, self.accepted):
            if receipt:
                yield receipt.since
                yield receipt.until + TICK
        if self.finished:
            yield self.finished


def finished_at() -> Subquery:
    """Return when the job of an outer row finished, by the receipt that counts."""
    return Subquery(JobFinishedReceipt.objects.of_the_job().values("timestamp"))


def valid(executor_class: Any, at: Any) -> list[QuerySet[Any, Any]]:
    """Return the jobs of a class that may run at a time or later, as arms of a union."""
    started = JobStartedReceipt.objects.in_class(executor_class).counted().filter(valid_until__gte=at)
    accepted = JobAcceptedReceipt.objects.counted().filter(valid_until__gte=at)
    in_class = Exists(JobStartedReceipt.objects.in_class(executor_class).of_the_job())
    return [_jobs(started, executor_class), _jobs(accepted.filter(in_class), executor_class)]


def changed(executor_class: Any, since: Any) -> list[QuerySet[Any, Any]]:
    """Return the jobs of a class with a receipt that changed since, as arms of a union."""
    in_class = JobStartedReceipt.objects.in_class(executor_class)
    return [
        _jobs(receipts.changed_since(since), executor_class)
        for receipts in (in_class, JobAcceptedReceipt.objects, JobFinishedReceipt.objects)
    ]


def _jobs(receipts: ReceiptQuerySet, executor_class: Any) -> QuerySet[Any, Any]:
    """Return all that the receipts of the same jobs say, as an arm of a union.

    The columns `key`, `at` and `until` come from the started receipt, those with `other_` from the accepted one, and
    `over` from the finished one. A job of another class has no started receipt here, and does not run.
    """
    lasting = {"key": "miner_hotkey", "at": "timestamp", "until": "valid_until"}
    return arm(
        JOB,
        receipts,
        job="job_uuid",
        **_columns(receipts, JobStartedReceipt.objects.in_class(executor_class), lasting),
        **_columns(
            receipts, JobAcceptedReceipt.objects.all(), {f"other_{name}": column for name, column in lasting.items()}
        ),
        **_columns(receipts, JobFinishedReceipt.objects.all(), {"over": "timestamp"}),
    )


def _columns(
    receipts: ReceiptQuerySet, of_the_job: ReceiptQuerySet, columns: Mapping[str, str]
) -> dict[str, Case | Subquery]:
    """Return columns of the receipts of one kind, unless they are voided.

    A value of another kind is a subquery, not a join: a plan for any values does not know that few rows are new. With a
    join PostgreSQL might read whole tables.
    """
    if receipts.model is of_the_job.model:
        return {name: Case(When(voided_at=None, then=F(column)), default=None) for name, column in columns.items()}
    return {name: Subquery(of_the_job.of_the_job().values(column)) for name, column in columns.items()}


@dataclass(frozen=True, slots=True)
class Jobs:
    """The known jobs of a class, by uuid as the database writes it. They never change: `after` returns others.

    `of` are the uuids of the jobs that keep a miner busy at some time according to receipts, by hotkey.
    """

    known: Mapping[str, Job] = field(default_factory=dict)
    of: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def after(self, rows: Iterable[Row], *, are_all: bool) -> tuple[Jobs, set[str]]:
        """Return the jobs after a reading of changed rows, or of all, and the miners whose jobs have changed."""
        known: Mapping[str, Job] = {} if are_all else self.known
        changed: dict[str, Job] = {}
        for row in rows:
            uuid = row.job or ""
            before = changed.get(uuid) or known.get(uuid)
            if row.kind == JOB:
                started = Interval.of(row.key, row.at, row.until)
                accepted = Interval.of(row.other_key, row.other_at, row.other_until)
                if started or before:  # else it runs in no class, or in another one
                    changed[uuid] = Job(started, accepted, row.over, before.holders if before else frozenset())
            elif uuid:  # a reservation
                started, accepted, _, holders = before or Job()
                changed[uuid] = Job(started, accepted, row.over, holders | {row.key or ""})
        compared = {*changed, *self.known} if are_all else changed.keys()
        return self._replaced(compared, {**known, **changed} if changed else known)

    def _replaced(self, compared: Iterable[str], known: Mapping[str, Job]) -> tuple[Jobs, set[str]]:
        """Return the `known` jobs, and the miners whose jobs changed. Only the `compared` jobs may have changed."""
        changed = [uuid for uuid in compared if known.get(uuid) != self.known.get(uuid)]
        if not changed:
            return self, set()
        of, miners = dict(self.of), set[str]()
        for uuid in changed:
            before, job = self.known.get(uuid, Job()), known.get(uuid, Job())
            miners |= before.miners | before.holders | job.miners | job.holders
            for miner in before.miners - job.miners:
                of[miner] -= {uuid}
                if not of[miner]:
                    del of[miner]
            for miner in job.miners - before.miners:
                of[miner] = of.get(miner, frozenset()) | {uuid}
        return Jobs(known, of), miners

    def is_finished(self, job: str) -> bool:
        """Return whether a job with a reservation has a finished receipt that counts."""
        return job in self.known and self.known[job].finished is not None

    def running(self, miner: str, now: dt.datetime) -> set[str]:
        """Return the uuids of the jobs that run on a miner at `now` according to receipts."""
        return {uuid for uuid in self.of.get(miner, ()) if self.known[uuid].miner(now) == miner}

    def instants(self, miner: str) -> Iterator[dt.datetime]:
        """Yield the times at which a job begins or ceases to run on a miner."""
        for uuid in self.of.get(miner, ()):
            yield from self.known[uuid].instants


def ends(executor_class: str, miners: Collection[str], at: dt.datetime) -> dict[tuple[str, UUID], dt.datetime]:
    """Return the times at which the receipts of ongoing jobs end, by (miner, job), for a class and some miners.

    If a job has a started and an accepted receipt, the later end counts.
    """
    of_job = JobStartedReceipt.objects.in_class(executor_class).of_the_job()
    elsewhere = of_job.valid(at).exclude(miner_hotkey=OuterRef("miner_hotkey"))
    accepted = JobAcceptedReceipt.objects.valid(at).unfinished(at).filter(Exists(of_job), ~Exists(elsewhere))
    found: dict[tuple[str, UUID], dt.datetime] = {}
    for receipts in (JobStartedReceipt.objects.running(executor_class, at), accepted):
        for miner, job, timestamp, valid_until in receipts.filter(miner_hotkey__in=miners).values_list(
            "miner_hotkey", "job_uuid", "timestamp", "valid_until"
        ):
            until = min(valid_until, timestamp + LONGEST)
            found[miner, job] = max(until, found.get((miner, job), until))
    return found


Lasting = type[JobStartedReceipt] | type[JobAcceptedReceipt]


def end(
    job_uuid: UUID, miner: str, at: dt.datetime, *, of: Iterable[Lasting] = (JobStartedReceipt, JobAcceptedReceipt)
) -> None:
    """End the validity of a job's receipts from one miner at the time `at`. Only their `valid_until` changes."""
    for model in of:
        receipts = model.objects.filter(job_uuid=job_uuid, miner_hotkey=miner, valid_until__gt=at)
        receipts.update(valid_until=Greatest("timestamp", Value(at, DateTimeField())))
