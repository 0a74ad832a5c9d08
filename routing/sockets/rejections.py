"""The judgement of rejections. A miner is excused if its receipts show that all its executors were busy.

The receipts come from the miner, so all their contents are checked: both signatures, the miner, the class, the time,
and that a registered neuron other than the miner sent the job. Each job counts once. The rejected job does not count.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import Q, QuerySet
from django.template.defaultfilters import pluralize

from allowance.interface import (
    Account,
    Block,
    MinerRow,
    Reservation,
    ReservationState,
    bound_waits,
    ledger_transaction,
    lock_timeout,
    value_at,
)
from receipts.interface import (
    BadReceiptError,
    JobFinishedReceipt,
    JobStarted,
    JobStartedReceipt,
    bounded,
    can_verify,
    is_signed,
    read,
)
from routing.models import Rejection

LEEWAY = dt.timedelta(seconds=2)
"""Time after the end of a receipt in which it still excuses: clocks differ, and messages take time.

ComputeHorde has the same.
"""

MOST_UNFIT = 1000
"""Maximum number of receipts to check, in addition to one for each executor. Each check takes time."""

Shown = list[Any]


class Offer(NamedTuple):
    """A job that a miner was asked to take, and when."""

    job_uuid: UUID
    miner: str
    executor_class: str
    at: dt.datetime


def judge(
    shown: Shown, *, job_uuid: UUID, miner: str, executor_class: str, routed_at: dt.datetime, now: dt.datetime
) -> Rejection:
    """Return the row that says whether the receipts excuse the miner.

    A repeated rejection of a job by a miner does not change the row.
    """
    rejections = Rejection.objects.filter(miner=miner, job_uuid=job_uuid)
    if judged := rejections.first():
        return judged
    found = Rejection(miner=miner, job_uuid=job_uuid, executor_class=executor_class, timestamp=now, excused=False)
    if shown:
        offer = Offer(job_uuid, miner, executor_class, _offered_at(job_uuid, miner, routed_at, now))
        _look_at(shown, offer, found)
    with ledger_transaction():
        bound_waits(lock_timeout())
        Rejection.objects.bulk_create([found], ignore_conflicts=True)
        return rejections.get()


def _offered_at(job_uuid: UUID, miner: str, routed_at: dt.datetime, now: dt.datetime) -> dt.datetime:
    """Return when a miner was asked to take a job: the time of its started receipt, or `routed_at` if it has none.

    A time before `routed_at` counts as `routed_at`, and a time after `now` counts as `now`.
    """
    started = JobStartedReceipt.objects.filter(job_uuid=job_uuid, miner_hotkey=miner, voided_at=None).first()
    return max(routed_at, min(started.timestamp, now)) if started else routed_at


def _look_at(shown: Shown, offer: Offer, found: Rejection) -> None:
    """Record in `found` whether receipts prove a job for each executor that the miner had at the time, and why."""
    if not can_verify():
        found.sentence = (
            "The router can't verify receipts, so they excuse no miner. "
            "Ask the operator to install the extra miner-router[signatures]."
        )
        return
    block = Block.objects.filter(timestamp__lte=offer.at).order_by("-number").values_list("number", flat=True).first()
    account = Account.objects.filter(miner=offer.miner, executor_class=offer.executor_class).first()
    if block is None or account is None:
        found.sentence = "The router does not know how many executors the miner had, so receipts can't excuse it."
        return
    found.executors = max(1, value_at(account.counts, block))
    most = found.executors + MOST_UNFIT
    flaws = Counter({f"beyond the first {most}": len(shown) - most} if len(shown) > most else {})
    jobs = _jobs(shown[:most], offer, block, flaws)
    found.jobs = sorted(jobs)
    found.excused = len(jobs) >= found.executors
    found.sentence = (
        f"The receipts prove {len(jobs)} ongoing job{pluralize(len(jobs))}. "
        f"The miner had {found.executors} executor{pluralize(found.executors)}."
    )
    if flaws:
        found.sentence += f" Items not counted: {', '.join(f'{n} {flaw}' for flaw, n in flaws.items())}."


def _jobs(shown: Shown, offer: Offer, block: int, flaws: Counter[str]) -> set[str]:
    """Return the jobs whose receipts count. Count the flaws of the other receipts in `flaws`."""
    fitting = []
    for receipt in _read(shown, flaws):
        if flaw := _flaw(receipt, offer):
            flaws[flaw] += 1
        else:
            fitting.append(receipt)
    over = _over({receipt.job_uuid for receipt in fitting}, offer)
    validators = _validators({receipt.validator_hotkey for receipt in fitting} - {offer.miner}, block)
    jobs: set[str] = set()
    for receipt in fitting:
        job = str(receipt.job_uuid)
        if receipt.job_uuid in over:
            flaws["of a job that was not ongoing"] += 1
        elif receipt.validator_hotkey not in validators:
            flaws["not from a registered validator"] += 1
        elif job in jobs:
            flaws["of a job that is counted already"] += 1
        elif not is_signed(receipt):
            flaws["not signed by both sides"] += 1
        else:
            jobs.add(job)
    return jobs


def _read(shown: Shown, flaws: Counter[str]) -> Iterator[JobStarted]:
    for value in shown:
        try:
            receipt = read(value)
        except BadReceiptError:
            flaws["not a receipt"] += 1
            continue
        if isinstance(receipt, JobStarted):
            yield bounded(receipt)
        else:
            flaws["of another kind"] += 1


def _flaw(receipt: JobStarted, offer: Offer) -> str | None:
    """Return why a receipt does not count, apart from its validator and signatures; None if there is no reason."""
    if receipt.miner_hotkey != offer.miner:
        return "of another miner"
    if receipt.executor_class != offer.executor_class:
        return "of another class"
    if receipt.job_uuid == offer.job_uuid:
        return "of the rejected job"
    if not receipt.timestamp <= offer.at <= receipt.timestamp + dt.timedelta(seconds=receipt.ttl) + LEEWAY:
        return "not valid at the time"
    return None


def _over(jobs: Collection[UUID], offer: Offer) -> set[UUID | None]:
    """Return those of `jobs` that kept no executor of the miner busy at `offer.at`, as far as this site knows.

    Such a job was finished by then, or its started receipt has been voided. Or its started receipt at the miner had
    ended by then, or a reservation of it at the miner was released or had expired. These two reasons do not count if
    the miner held another reservation of the job at `offer.at`.
    """
    finished = JobFinishedReceipt.objects.filter(job_uuid__in=jobs, timestamp__lte=offer.at, voided_at=None)
    started = JobStartedReceipt.objects.filter(job_uuid__in=jobs)
    voided = started.filter(voided_at__isnull=False)
    ended = {
        receipt.job_uuid
        for receipt in started.filter(miner_hotkey=offer.miner)
        if receipt.valid_until < offer.at - LEEWAY or (receipt.ended_at and receipt.ended_at <= offer.at)
    }
    of_miner = Reservation.objects.filter(job_uuid__in=jobs, account__miner=offer.miner)
    unspent = of_miner.exclude(state=ReservationState.SPENT)
    over = unspent.filter(Q(ended_at__lte=offer.at) | Q(expires_at__lte=offer.at))
    not_ended = Q(ended_at=None) | Q(ended_at__gt=offer.at)
    held = of_miner.filter(not_ended, created_at__lte=offer.at, expires_at__gt=offer.at)
    given_up = {*ended, *_jobs_of(over)} - {*_jobs_of(held)}
    return {*_jobs_of(finished), *_jobs_of(voided), *given_up}


def _jobs_of(rows: QuerySet[Any]) -> Iterable[UUID | None]:
    return rows.values_list("job_uuid", flat=True)


def _validators(hotkeys: Collection[str], block: int) -> set[str]:
    """Return those of `hotkeys` that may have sent jobs at a block: all neurons registered at that block.

    The ledger does not know which of them have a validator permit.
    """
    neurons = MinerRow.objects.filter(hotkey__in=hotkeys).values_list("hotkey", "presence")
    return {hotkey for hotkey, presence in neurons if value_at(presence, block)}
