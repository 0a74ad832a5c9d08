"""What the ledger comes to at a moment: what became of reservations, and of every miner's allowance."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from django.db.models import Count, QuerySet, Value

from allowance import ledger
from allowance.ledger import Balance, Window
from allowance.models import Reservation, ReservationState
from allowance.oversight import fates
from allowance.oversight.fates import Fate
from allowance.plumbing.buckets import UtcHour
from allowance.reading import Reading, read
from allowance.state import expired_at
from allowance.types import ExecutorClass

SOON = dt.timedelta(seconds=60)
"""What expires so soon is about to expire."""

DAY = dt.timedelta(hours=24)
LISTED = 20


class LiveReservation(NamedTuple):
    """A reservation that is held: by how many blocks of whom, until when, and what they give, in nanoseconds."""

    pk: int
    job: UUID | None
    hotkey: str
    executor_class: str
    blocks: int
    ns: int
    expires_at: dt.datetime


Amounts = Counter[Fate]
"""What became of all that was earned in the window of a job that starts now: nanoseconds by fate."""


@dataclass(slots=True)
class MinerTotals:
    """A miner's allowance in one executor class or several, its live reservations, and how many expired in a day."""

    hotkey: str
    registered: bool
    amounts: Amounts
    live: int = 0
    expired: int = 0


@dataclass(frozen=True, slots=True)
class Totals:
    """The ledger at a moment.

    `holds` are the live reservations, the next to expire first. `ended` has how many ended in which way in each hour of
    the last 24. `expired` is how many ever expired unclaimed, `newest_expired` the last of them. `miners` are by
    hotkey.
    """

    at: dt.datetime
    holds: Sequence[LiveReservation]
    ended: Mapping[dt.datetime, Counter[str]]
    expired: int
    newest_expired: Sequence[Reservation]
    miners: Sequence[MinerTotals]

    @property
    def about_to_expire(self) -> list[LiveReservation]:
        """The holds that end by themselves within SOON."""
        return [hold for hold in self.holds if hold.expires_at <= self.at + SOON]

    def ended_as(self, state: ReservationState) -> int:
        """Return how many reservations ended in a way in the last 24 hours."""
        return sum(ends[state] for ends in self.ended.values())

    @property
    def amounts(self) -> Amounts:
        """The allowance of all the miners together."""
        return sum((miner.amounts for miner in self.miners), Amounts())


def totals(now: dt.datetime, *, executor_class: ExecutorClass | None = None) -> Totals:
    """Return what the ledger comes to at `now`, the allowance of miners in one executor class, or in all.

    Reservations are those of all classes in either case. Each class is read in one statement, the ends in others: who
    writes meanwhile may be in one and not yet in the other.
    """
    readings = {known: read(known, now) for known in ExecutorClass}
    holds = [hold for known, reading in readings.items() for hold in _holds(known, reading)]
    asked = readings if executor_class is None else {executor_class: readings[executor_class]}
    return Totals(
        at=now,
        holds=sorted(holds, key=lambda hold: (hold.expires_at, hold.pk)),
        ended=_ended(now),
        expired=sum(rows.count() for rows in _expired(now)),
        newest_expired=_newest_expired(now),
        miners=_miners(asked, now),
    )


def amounts(balance: Balance, window: Window) -> Amounts:
    """Return what became of an account's allowance."""
    return Amounts({fate: total.ns for fate, total in fates.totals(balance, window).items()})


def _holds(executor_class: str, reading: Reading) -> Iterator[LiveReservation]:
    live = [(hotkey, hold) for hotkey, holds in reading.holds.items() for hold in holds]
    alone = [reading.balances[hotkey]._replace(held=hold.bits, spent=0) for hotkey, hold in live]
    for (hotkey, hold), standing in zip(live, ledger.survey(reading.window, alone), strict=True):
        job = None if hold.job is None else UUID(hold.job)
        held = standing.unspent - standing.free
        yield LiveReservation(hold.pk, job, hotkey, executor_class, len(hold.blocks), held, hold.expires_at)


def _ended(now: dt.datetime) -> dict[dt.datetime, Counter[str]]:
    """Count what ended in which way in each hour since a day ago, the first and the last in part.

    What ended by a clock ahead of ours, in the next hour, has ended in this one.
    """
    since = now - DAY
    first, last = (time.replace(minute=0, second=0, microsecond=0) for time in (since, now))
    hours = {first + dt.timedelta(hours=i): Counter[str]() for i in range((last - first) // dt.timedelta(hours=1) + 1)}
    ended = Reservation.objects.filter(ended_at__gt=since).values_list(UtcHour("ended_at"), "state")
    expired = Reservation.objects.filter(expired_at(now), expires_at__gt=since)
    unnoted = expired.values_list(UtcHour("expires_at"), Value(ReservationState.EXPIRED.value))
    # Each part has an index of its own; in one statement a row that is tidied up meanwhile counts once.
    parts = [rows.annotate(Count("pk")).order_by() for rows in (ended, unnoted)]
    found = parts[0].union(parts[1], all=True)
    for hour, fate, count in found:
        hours[min(hour, last)][fate] += count
    return hours


def _expired(now: dt.datetime) -> tuple[QuerySet[Reservation], QuerySet[Reservation]]:
    """Return the reservations that expired by `now`: those whose rows say so, and the others. Each has its index."""
    return Reservation.objects.filter(state=ReservationState.EXPIRED), Reservation.objects.filter(expired_at(now))


def _newest_expired(now: dt.datetime) -> list[Reservation]:
    newest = [row for rows in _expired(now) for row in rows.select_related("account").order_by("-expires_at")[:LISTED]]
    return sorted(newest, key=lambda row: (row.expires_at, row.pk), reverse=True)[:LISTED]


def _miners(readings: Mapping[ExecutorClass, Reading], now: dt.datetime) -> list[MinerTotals]:
    found: dict[str, MinerTotals] = {}
    for reading in readings.values():
        for hotkey, balance in reading.balances.items():
            miner = found.setdefault(hotkey, MinerTotals(hotkey, balance.registered, Amounts()))
            miner.amounts += amounts(balance, reading.window)
            miner.live += len(reading.holds.get(hotkey, ()))
    for rows in _expired(now):
        of_a_day = rows.filter(expires_at__gt=now - DAY, account__executor_class__in=readings)
        for hotkey, count in of_a_day.values_list("account__miner").annotate(Count("pk")):
            if hotkey in found:  # it may have come since its class was read
                found[hotkey].expired += count
    return sorted(found.values(), key=lambda miner: miner.hotkey)
