"""The ledger's page: how reservations ended, what allowance miners have left, and what the last check found."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple
from uuid import UUID

from django import forms
from django.http import HttpRequest, HttpResponse

from allowance.interface import (
    LISTED,
    SOON,
    ExecutorClass,
    Fate,
    LedgerCheck,
    LiveReservation,
    MinerTotals,
    Reservation,
    ReservationState,
    Totals,
    causes,
    clock,
    to_seconds,
    totals,
)
from allowance.plumbing.lists import link
from routing.models import DecisionRecord
from routing.pages import SEE_DECISIONS, SEE_LEDGER, SEE_MINER, miner_link, needs, show
from routing.pages.charts import Chart

TOP = 15
"""Number of miners in the chart of the most spent allowance."""

CHECK = "python manage.py check_ledger"


class Column(NamedTuple):
    """A column of the miners' table: its heading, and a function for a miner's value, in nanoseconds or as a count."""

    title: str
    value: Callable[[MinerTotals], int]
    is_time: bool = True


def _amount_of(fate: Fate) -> Callable[[MinerTotals], int]:
    return lambda miner: miner.amounts[fate]


PARTS = Fate.FREE, Fate.HELD, Fate.SPENT, Fate.VOIDED

COLUMNS = {
    **{fate.value: Column(f"{fate} s", _amount_of(fate)) for fate in PARTS},
    "earned": Column("earned s", lambda miner: miner.amounts.total()),
    "live": Column("live now", lambda miner: miner.live, is_time=False),
    "expired": Column("expired in 24 h", lambda miner: miner.expired, is_time=False),
}
BY_NAME, BY_SPENT = "miner", "spent"


class Choice(forms.Form):
    """The executor class whose allowance is shown, and the column that sorts the miners."""

    executor_class = forms.ChoiceField(
        label="Executor class", required=False, choices=[("", "all classes"), *((c, c) for c in ExecutorClass)]
    )
    sort = forms.ChoiceField(
        label="Sorted by", choices=[(BY_NAME, "miner"), *((name, column.title) for name, column in COLUMNS.items())]
    )


@needs(*SEE_LEDGER)
def ledger_page(request: HttpRequest) -> HttpResponse:
    """Show the ledger as it is now."""
    choice = Choice({"sort": BY_SPENT, **request.GET.dict()})
    understood = choice.is_valid()
    chosen: str = choice.cleaned_data.get("executor_class", "")
    sort: str = choice.cleaned_data.get("sort", BY_SPENT)
    now = clock.now()
    found = totals(now, executor_class=ExecutorClass(chosen) if chosen else None)
    response = show(
        request,
        "routing/ledger.html",
        "Ledger",
        totals=found,
        causes=causes(),
        figures=_figures(found),
        ended_by_hour=_ended_by_hour(found),
        shares=_shares(found, chosen),
        most_spent=_most_spent(found, chosen),
        check=LedgerCheck.objects.order_by("-at").first(),
        check_command=CHECK,
        choice=choice,
        headings=_headings(chosen, sort),
        miners=[_miner_row(miner, request) for miner in _sorted(found.miners, sort)],
        next_to_expire=[_hold_row(hold, found, request) for hold in found.holds[:LISTED]],
        expired=[_expired_row(reservation, request) for reservation in found.newest_expired],
    )
    response.status_code = 200 if understood else 400
    return response


def _miner(request: HttpRequest, hotkey: str) -> str:
    """Return a hotkey, linked to the miner's page if the user may see it."""
    return miner_link(hotkey) if request.user.has_perms(SEE_MINER) else hotkey


def _job(request: HttpRequest, job: UUID | None) -> str:
    """Return a job's uuid, linked to its decisions if the user may see them."""
    if job is None:
        return "without a uuid"
    return link(job, DecisionRecord, q=job) if request.user.has_perms(SEE_DECISIONS) else str(job)


def seconds(ns: int) -> float:
    """Convert nanoseconds to seconds, rounded to one decimal."""
    return round(to_seconds(ns), 1)


class Figure(NamedTuple):
    """A number at the top of the page, and its meaning; `tone` is a CSS class."""

    name: str
    number: int
    meaning: str
    tone: str = ""


def _figures(found: Totals) -> list[Figure]:
    ended = {state: found.ended_as(state) for state in ReservationState}
    about = found.about_to_expire
    expired = ended[ReservationState.EXPIRED]
    share = f"{expired / sum(ended.values()):.0%} of all that ended" if expired else "none of those that ended"
    return [
        Figure("Live", len(found.holds), f"hold {_text(hold.ns for hold in found.holds)} now"),
        Figure(
            "About to expire",
            len(about),
            f"within {SOON.seconds} s, with {_text(hold.ns for hold in about)}",
            "warn" if about else "",
        ),
        Figure(
            "Expired unclaimed",
            expired,
            f"in 24 h, {share}; {found.expired:,} in all",
            "warn" if expired else "good",
        ),
        Figure("Spent", ended[ReservationState.SPENT], f"in 24 h; {ended[ReservationState.RELEASED]:,} were released"),
    ]


def _text(ns: Iterable[int]) -> str:
    return f"{seconds(sum(ns)):,.1f} s"


def _ended_by_hour(found: Totals) -> Chart:
    """Return the chart of ended reservations. Their order gives spent ones the same colour as in the other charts."""
    ends = (ReservationState.RELEASED, ReservationState.EXPIRED, ReservationState.SPENT)
    return Chart(
        "ended-by-hour",
        "How reservations ended, by hour (UTC)",
        "columns",
        [f"{hour:%a %H:00}" for hour in found.ended],
        {end.label: [ended[end] for ended in found.ended.values()] for end in ends},
    )


def _shares(found: Totals, executor_class: str) -> Chart:
    return Chart(
        "allowance-by-fate",
        f"Fate of the allowance in {executor_class or 'all classes'}, in seconds",
        "ring",
        [fate.title() for fate in PARTS],
        {"seconds": [seconds(found.amounts[fate]) for fate in PARTS]},
    )


def _most_spent(found: Totals, executor_class: str) -> Chart:
    most = [miner for miner in _sorted(found.miners, BY_SPENT)[:TOP] if miner.amounts[Fate.SPENT]]
    return Chart(
        "most-spent",
        f"The {TOP} miners with the most spent allowance in {executor_class or 'all classes'}, in seconds",
        "bars",
        [miner.hotkey for miner in most],
        {fate.title(): [seconds(miner.amounts[fate]) for miner in most] for fate in PARTS},
    )


def _sorted(miners: Iterable[MinerTotals], sort: str) -> list[MinerTotals]:
    """Sort by hotkey, or by a column, largest first. Miners with equal values stay in the order of their hotkeys."""
    if sort == BY_NAME:
        return list(miners)
    return sorted(miners, key=COLUMNS[sort].value, reverse=True)


class Heading(NamedTuple):
    """A heading of the miners' table, and the query that sorts by it."""

    title: str
    query: str
    order: str


def _headings(executor_class: str, sort: str) -> list[Heading]:
    titles = {BY_NAME: "miner", **{key: column.title for key, column in COLUMNS.items()}}
    return [
        Heading(
            title,
            f"?executor_class={executor_class}&sort={key}#miners",
            ("ascending" if key == BY_NAME else "descending") if key == sort else "",
        )
        for key, title in titles.items()
    ]


def _miner_row(miner: MinerTotals, request: HttpRequest) -> dict[str, object]:
    values = [
        f"{seconds(column.value(miner)):,.1f}" if column.is_time else f"{column.value(miner):,}"
        for column in COLUMNS.values()
    ]
    return {"link": _miner(request, miner.hotkey), "registered": miner.registered, "values": values}


def _hold_row(hold: LiveReservation, found: Totals, request: HttpRequest) -> dict[str, object]:
    return {
        "left": (hold.expires_at - found.at).total_seconds(),
        "is_soon": hold.expires_at <= found.at + SOON,
        "job": _job(request, hold.job),
        "miner": _miner(request, hold.hotkey),
        "executor_class": hold.executor_class,
        "blocks": hold.blocks,
        "seconds": seconds(hold.ns),
    }


def _expired_row(reservation: Reservation, request: HttpRequest) -> dict[str, object]:
    return {
        "at": reservation.expires_at,
        "job": _job(request, reservation.job_uuid),
        "miner": _miner(request, reservation.account.miner_id),
        "executor_class": reservation.account.executor_class,
        "blocks": len(reservation.blocks),
        "held_for": (reservation.expires_at - reservation.created_at).total_seconds(),
    }
