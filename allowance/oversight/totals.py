"""Totals of the ledger at a moment: how reservations ended, and every miner's allowance by fate."""

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
from allowance.models import Reservation, ReservationState, expired_at
from allowance.oversight import fates
from allowance.oversight.fates import Fate
from allowance.plumbing.buckets import UtcHour
from allowance.reading import Reading, read
from allowance.types import ExecutorClass

SOON = dt.timedelta(seconds=60)
"""A reservation that expires within this time is about to expire."""

DAY = dt.timedelta(hours=24)
LISTED = 20


class LiveReservation(NamedTuple):
    """A held reservation. `blocks` is the number of its blocks, `ns` the executor-nanoseconds that they give."""

    pk: int
    job: UUID | None
    hotkey: str
    executor_class: str
    blocks: int
    ns: int
    expires_at: dt.datetime


Amounts = Counter[Fate]
"""Executor-nanoseconds by fate, of all blocks in the window of a job that starts now."""


@dataclass(slots=True)
class MinerTotals:
    """A miner's allowance in one or several classes, its live reservations, and how many expired in 24 hours."""

    hotkey: str
    registered: bool
    amounts: Amounts
    live: int = 0
    expired: int = 0


@dataclass(frozen=True, slots=True)
class Totals:
    """The ledger at a moment.

    `holds` are the live reservations, the next to expire first. `ended` counts, for each hour of the last 24, the
    reservations that ended in each state. `expired` is the number of all stored reservations that expired;
    `newest_expired` are the last LISTED of them. `miners` are sorted by hotkey.
    """

    at: dt.datetime
    holds: Sequence[LiveReservation]
    ended: Mapping[dt.datetime, Counter[str]]
    expired: int
    newest_expired: Sequence[Reservation]
    miners: Sequence[MinerTotals]

    @property
    def about_to_expire(self) -> list[LiveReservation]:
        """The live reservations that expire within SOON."""
        return [hold for hold in self.holds if hold.expires_at <= self.at + SOON]

    def ended_as(self, state: ReservationState) -> int:
        """Return how many reservations ended in this state in the last 24 hours."""
        return sum(ends[state] for ends in self.ended.values())

    @property
    def amounts(self) -> Amounts:
        """The allowance of all miners together."""
        return sum((miner.amounts for miner in self.miners), Amounts())


def totals(now: dt.datetime, *, executor_class: ExecutorClass | None = None) -> Totals:
    """Return the totals of the ledger at `now`, with the allowance of miners in one executor class, or in all.

    `holds`, `ended` and `expired` are of all classes in either case. Each class is read in one statement, the ends in
    others. A concurrent write may therefore be in one reading and not in another.
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
    """Return an account's allowance in a window, in executor-nanoseconds by fate."""
    return Amounts({fate: total.ns for fate, total in fates.totals(balance, window).items()})


def _holds(executor_class: str, reading: Reading) -> Iterator[LiveReservation]:
    live = [(hotkey, hold) for hotkey, holds in reading.holds.items() for hold in holds]
    alone = [reading.balances[hotkey]._replace(held=hold.bits, spent=0) for hotkey, hold in live]
    for (hotkey, hold), standing in zip(live, ledger.survey(reading.window, alone), strict=True):
        job = None if hold.job is None else UUID(hold.job)
        held = standing.unspent - standing.free
        yield LiveReservation(hold.pk, job, hotkey, executor_class, len(hold.blocks), held, hold.expires_at)


def _ended(now: dt.datetime) -> dict[dt.datetime, Counter[str]]:
    """Count the reservations that ended in the last 24 hours, by hour and state. The first and last hour are partial.

    An end in the next hour, dated by a clock ahead of ours, counts in the current hour.
    """
    since = now - DAY
    first, last = (time.replace(minute=0, second=0, microsecond=0) for time in (since, now))
    hours = {first + dt.timedelta(hours=i): Counter[str]() for i in range((last - first) // dt.timedelta(hours=1) + 1)}
    ended = Reservation.objects.filter(ended_at__gt=since).values_list(UtcHour("ended_at"), "state")
    expired = Reservation.objects.filter(expired_at(now), expires_at__gt=since)
    unnoted = expired.values_list(UtcHour("expires_at"), Value(ReservationState.EXPIRED.value))
    # Each part uses its own index. Both are in one statement, so that a row tidied meanwhile counts once.
    parts = [rows.annotate(Count("pk")).order_by() for rows in (ended, unnoted)]
    found = parts[0].union(parts[1], all=True)
    for hour, fate, count in found:
        hours[min(hour, last)][fate] += count
    return hours


def _expired(now: dt.datetime) -> tuple[QuerySet[Reservation], QuerySet[Reservation]]:
    """Return the reservations that expired by `now`: those stored as expired, and those still stored as held."""
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
            if hotkey in found:  # the miner may be newer than the reading of its class
                found[hotkey].expired += count
    return sorted(found.values(), key=lambda miner: miner.hotkey)
