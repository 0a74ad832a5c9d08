"""A miner's page: its allowance, its ongoing jobs, its rank and the reasons for the rank, and its history."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from django import forms
from django.contrib.admin.utils import unquote
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_safe

from allowance.interface import (
    EXECUTOR_CLASSES,
    MAX_JOB_RUN_TIME,
    Account,
    BadInputError,
    Block,
    Fate,
    MinerRow,
    Reservation,
    Run,
    SourceReport,
    Steps,
    Total,
    causes,
    clock,
    fates,
    held_at,
    present,
    validation,
)
from allowance.plumbing.buckets import UtcDay
from allowance.plumbing.console import to_the_second
from allowance.plumbing.lists import link
from receipts.interface import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt
from routing.decision import in_force
from routing.decision.book import DryBook
from routing.decision.dry import Cost, costs, dry_run
from routing.decision.model import Candidate, Decision, Policy
from routing.decision.reliability import incidents_by_type
from routing.log.records import that_passed_over
from routing.models import DecisionRecord, MinerIncident
from routing.pages import SEE_MINER, needs, show
from routing.pages.charts import Chart
from routing.pages.incident_counts import Stretch, over_time
from routing.watch.findings import ago
from routing.watch.followed import COLLATERAL, CollateralDetail

SHOWN = Stretch("last 30 days", 30, UtcDay)
"""The days whose incidents are shown."""

LAST = 20
"""Number of decisions shown: the newest that sent the miner a job."""


USUAL_SECONDS = 60
"""The initial length of the job in the form, in seconds."""


class JobForm(forms.Form):
    """The job for which the miner is ranked."""

    seconds = forms.IntegerField(label="Length of the job in seconds", min_value=1, max_value=MAX_JOB_RUN_TIME)


@dataclass(frozen=True, slots=True)
class OngoingJob:
    """A job that keeps an executor busy: its sources, start and end.

    If `uuid` is None, only the job's reservation is known.
    """

    uuid: UUID | None
    sources: tuple[str, ...]
    since: str
    until: str


class Bar(NamedTuple):
    """A run of blocks, and the number of blocks to its left in the strip."""

    run: Run
    x: int


@dataclass(frozen=True, slots=True)
class InClass:
    """A miner in one executor class; `candidate` is None if the decision did not consider it."""

    account: Account
    runs: Sequence[Run]
    amounts: Sequence[tuple[Fate, Total]]
    incidents: int
    ongoing: Sequence[OngoingJob]
    decision: Decision
    candidate: Candidate | None
    costs: Sequence[Cost]

    @property
    def bars(self) -> list[Bar]:
        return [Bar(run, run.first - self.runs[0].first) for run in self.runs]

    @property
    def blocks(self) -> int:
        """The number of blocks in the strip."""
        return sum(run.blocks for run in self.runs)

    @property
    def ranked(self) -> int:
        """The number of miners that passed the gates before the ranking."""
        return sum(c.rank is not None for c in self.decision.candidates)


@needs(*SEE_MINER)
@require_safe
def miner_page(request: HttpRequest, hotkey: str) -> HttpResponse:
    """Show the current state of a miner. The view writes and locks nothing."""
    try:
        name = validation.hotkey(unquote(hotkey))
    except BadInputError as error:
        raise Http404(str(error)) from error
    row = get_object_or_404(MinerRow, pk=name)
    form = JobForm({"seconds": USUAL_SECONDS, **request.GET.dict()})
    seconds = form.cleaned_data["seconds"] if form.is_valid() else USUAL_SECONDS
    now, policy = clock.now(), in_force.policy()
    found = in_classes(name, seconds, now, policy)
    classes = [in_class.account.executor_class for in_class in found]
    return show(
        request,
        "routing/miner.html",
        name,
        miner=row,
        registered=present(row.presence),
        presence=presence(row.presence),
        policy=policy,
        collateral=collateral(row.wei, policy.minimum_wei),
        collateral_read=collateral_read(name, now),
        form=form,
        seconds=seconds,
        hours=policy.window / dt.timedelta(hours=1),
        classes=found,
        causes=causes(),
        chart=incidents_by_day(name, now),
        decisions=DecisionRecord.objects.filter(miner=name).defer("candidates").order_by("-at")[:LAST],
        passed_over=that_passed_over(name, classes, now),
        links=elsewhere(name),
    )


def presence(steps: Steps) -> str:
    """Return whether a miner is registered, and since which block.

    The ledger keeps only recent changes, so the blocks of older changes are unknown.
    """
    if not steps:
        return "not registered in any block that the ledger still uses"
    block, registered = steps[-1]
    if not block:
        return "registered in every recorded block"
    earlier = " or earlier" if len(steps) == 1 else ""
    return f"{'registered' if registered else 'not registered'} since block {block}{earlier}"


def collateral(wei: int, minimum_wei: int) -> int:
    """Return a collateral in percent of the minimum, at most 100. If there is no minimum, return 100."""
    return min(100, wei * 100 // minimum_wei) if minimum_wei else 100


def collateral_read(hotkey: str, now: dt.datetime) -> str:
    """Return the block of a miner's collateral, and its age, or since when it is unknown. At most two queries.

    The age is that of the block at which the collateral was read.
    """
    report = SourceReport.objects.filter(pk=COLLATERAL).first()
    detail = CollateralDetail.of(report)

    def since(then: dt.datetime) -> str:
        return ago((now - then).total_seconds())

    if report is None:
        return "no chain follower reads it"
    if unknown := detail.unknown.get(hotkey):
        return f"unknown since {to_the_second(unknown)} ({since(unknown)}): this is the last known amount"
    if report.good_at is None or detail.block is None:
        return "no chain follower has read it yet"
    minted = Block.objects.filter(pk=detail.block).values_list("timestamp", flat=True).first()
    return f"read at block {detail.block}" + (f", minted {since(minted)}" if minted else "")


def in_classes(hotkey: str, seconds: int, now: dt.datetime, policy: Policy) -> list[InClass]:
    """Return the miner in each current executor class in which it has an account."""
    accounts = Account.objects.filter(miner=hotkey, executor_class__in=EXECUTOR_CLASSES).order_by("executor_class")
    by_type = incidents_by_type(hotkey, now, policy.window)
    seen = {
        account: DryBook().read(account.executor_class, now) for account in accounts.defer("counts", "held", "spent")
    }
    ongoing = ongoing_jobs(hotkey, {account: s.state.rows[hotkey].ongoing for account, s in seen.items()}, now)
    found = []
    for account, there in seen.items():
        decision = dry_run(account.executor_class, seconds, now=now, policy=policy, seen=there)
        candidate = next((c for c in decision.candidates if c.hotkey == hotkey), None)
        types = by_type.get(account.executor_class, {})
        totals = fates.totals(there.state.rows[hotkey].balance, there.window)
        found.append(
            InClass(
                account=account,
                runs=fates.runs(there.state.rows[hotkey].balance, there.window),
                amounts=[(fate, total) for fate, total in totals.items() if fate is not Fate.AGED_OUT],
                incidents=sum(types.values()),
                ongoing=ongoing[account],
                decision=decision,
                candidate=candidate,
                costs=costs(decision, candidate, types) if candidate and types else (),
            )
        )
    return found


class Source(NamedTuple):
    """The evidence that a job is ongoing: a reservation or a receipt, as a link, with its start and end."""

    text: str
    since: dt.datetime
    until: dt.datetime


def ongoing_jobs(
    hotkey: str, jobs: Mapping[Account, set[str | int]], now: dt.datetime
) -> dict[Account, list[OngoingJob]]:
    """Return the details of the ongoing jobs, by account. Three queries.

    `jobs` has the ongoing jobs that the router read before. A job that has ended since then is listed with the text
    “ended just now” instead of sources.
    """
    uuids = {UUID(job) for of_class in jobs.values() for job in of_class if isinstance(job, str)}
    sources: dict[UUID | int, list[Source]] = {}
    for hold in Reservation.objects.filter(held_at(now), account__in=jobs).defer("blocks"):
        text = link(f"reservation {hold.pk}", Reservation, hold.pk)
        sources.setdefault(hold.job_uuid or hold.pk, []).append(Source(text, hold.created_at, hold.expires_at))
    valid: dict[str, Any] = {"job_uuid__in": uuids, "miner_hotkey": hotkey, "timestamp__lte": now, "voided_at": None}
    for kind, model in (("started", JobStartedReceipt), ("accepted", JobAcceptedReceipt)):
        for receipt in model._default_manager.filter(**valid, valid_until__gte=now):
            text = link(f"{kind} receipt", model, receipt.pk)
            sources.setdefault(receipt.job_uuid, []).append(Source(text, receipt.timestamp, receipt.valid_until))
    keys = {account: [UUID(job) if isinstance(job, str) else job for job in found] for account, found in jobs.items()}
    return {account: [_ongoing(key, sources.get(key, ())) for key in found] for account, found in keys.items()}


def _ongoing(key: UUID | int, sources: Collection[Source]) -> OngoingJob:
    uuid = key if isinstance(key, UUID) else None
    if not sources:
        return OngoingJob(uuid, ("ended just now",), "-", "-")
    since, until = min(s.since for s in sources), max(s.until for s in sources)
    return OngoingJob(uuid, tuple(s.text for s in sources), to_the_second(since), to_the_second(until))


def incidents_by_day(hotkey: str, now: dt.datetime) -> Chart:
    """Return the chart of the miner's incidents that are not voided, by day and type. One query."""
    counting = SHOWN.of(MinerIncident.objects.filter(hotkey_ss58address=hotkey, voided_at=None), now)
    title = f"Incidents by day (UTC), {SHOWN.title}, except voided ones"
    return Chart("incidents", title, "columns", SHOWN.labels(now), over_time(counting, SHOWN, now))


def elsewhere(hotkey: str) -> list[str]:
    """Return links to the lists about the miner."""
    return [
        link("incidents", MinerIncident, hotkey_ss58address__exact=hotkey),
        link("decisions", DecisionRecord, miner__exact=hotkey),
        link("reservations", Reservation, q=hotkey),
        link("started receipts", JobStartedReceipt, miner_hotkey__exact=hotkey),
        link("accepted receipts", JobAcceptedReceipt, miner_hotkey__exact=hotkey),
        link("finished receipts", JobFinishedReceipt, miner_hotkey__exact=hotkey),
        link("accounts", Account, miner__hotkey__exact=hotkey),
        link("record of the miner", MinerRow, hotkey),
    ]
