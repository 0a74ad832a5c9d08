"""The state of routing: the findings that monitors watch, and the decisions of the last HOURS hours."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping

from django.db.models import Count, Q
from django.http import HttpRequest, HttpResponse

from allowance.interface import MinerRow, clock
from allowance.plumbing.buckets import UtcHour
from allowance.plumbing.lists import link
from routing.models import DecisionRecord
from routing.pages import SEE_STATUS, needs, show
from routing.pages.charts import Chart
from routing.types import REFUSALS, Outcome
from routing.watch.measures import HOUR, Work
from routing.watch.status import status

HOURS = 24

FIXED = "fixed route"

LABELS: dict[str, str] = {Outcome.ROUTED: "routed", FIXED: FIXED} | {
    outcome: str(outcome.label) for outcome in REFUSALS
}
"""The labels of the outcomes in charts, in stacking order."""

ByHour = Mapping[dt.datetime, Counter[str]]


@needs(*SEE_STATUS)
def status_page(request: HttpRequest) -> HttpResponse:
    """Show the findings, the worst first, the miners with the most work, and the outcomes of the last hours."""
    now = clock.now()
    found, by_hour = status(now), outcomes_by_hour(now)
    named = dict.fromkeys((*found.most_jobs, *found.most_seconds))
    return show(
        request,
        "routing/status.html",
        "Status",
        status=found,
        decisions=decisions_chart(by_hour),
        refusals=refusals_chart(by_hour),
        most_jobs=work_chart("jobs", found.most_jobs),
        most_seconds=work_chart("seconds", found.most_seconds),
        work=[(link(work.miner, MinerRow, work.miner), work) for work in named],
    )


def outcomes_by_hour(now: dt.datetime) -> ByHour:
    """Return the number of decisions by outcome in each of the last HOURS hours of UTC, including the current hour."""
    begun = now.astimezone(dt.UTC).replace(minute=0, second=0, microsecond=0)
    by_hour = {begun - HOUR * ago: Counter[str]() for ago in reversed(range(HOURS))}
    counted = (
        DecisionRecord.objects.filter(at__gte=min(by_hour), at__lte=now)
        .values_list(UtcHour("at"), "outcome")
        .annotate(Count("pk"), fixed=Count("pk", filter=Q(window_hours=None)))
    )
    for hour, outcome, number, fixed in counted:
        by_hour[hour].update({outcome: number - fixed, FIXED: fixed})
    return by_hour


def decisions_chart(by_hour: ByHour) -> Chart:
    """Return the chart of the decisions of each hour, stacked by outcome."""
    total = sum(by_hour.values(), Counter[str]())
    series = {
        LABELS.get(outcome, outcome): [outcomes[outcome] for outcomes in by_hour.values()]
        for outcome in sorted(total, key=_place)
    }
    hours = [f"{hour:%H:%M}" for hour in by_hour]
    return Chart("decisions", f"Decisions of the last {HOURS} hours (UTC) by outcome", "columns", hours, series)


def refusals_chart(by_hour: ByHour) -> Chart:
    """Return the chart of the refusals of all hours by reason."""
    total = sum(by_hour.values(), Counter[str]())
    refused = {each: total[each] for each in sorted(total, key=_place) if each not in {Outcome.ROUTED, FIXED}}
    labels = [LABELS.get(outcome, outcome) for outcome in refused]
    return Chart(
        "refusals", f"Refusals of the last {HOURS} hours by reason", "bars", labels, {"refusals": [*refused.values()]}
    )


def work_chart(what: str, most: Iterable[Work]) -> Chart:
    """Return the chart of the miners that got the most `what` in the last hour: jobs or seconds."""
    amounts = {work.miner: getattr(work, what) for work in most}
    return Chart(
        f"most-{what}", f"Miners with the most {what} in the last hour", "bars", [*amounts], {what: [*amounts.values()]}
    )


def _place(outcome: str) -> int:
    return [*LABELS, outcome].index(outcome)
