"""The measures of the last hour and of the recorded chain. Each measure is a function. Add new ones here.

Those of the chain follower are in `routing.watch.follower_measures`.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

from django.db.models import Count, Max, OuterRef, Q, Subquery, Sum

from allowance.interface import (
    BLOCK_DURATION_US,
    CHECK_BLOCKS,
    CHECK_MANIFESTS,
    CHECK_NEURONS,
    CHECK_STAKE,
    MANY,
    MAX_AHEAD,
    Absence,
    Block,
    Earning,
    LedgerCheck,
    ManifestSync,
    Reservation,
    ReservationState,
    Silence,
    absence,
    earning,
    expired_at,
    held_at,
    lock_timeout,
    silences,
    wei_text,
)
from routing.conf import conf
from routing.decision.in_force import policy
from routing.models import DecisionRecord
from routing.types import Outcome
from routing.watch.findings import DAY, Level, Limits, Measure, ago, digits
from routing.watch.followed import Followed, read_followed

HOUR = dt.timedelta(hours=1)

TOP = 5
"""Number of miners that are named as those with the most work."""

FEW = 20
"""Minimum total for a percentage. In a quiet hour, a single refusal could be 100 %."""

NO_BLOCK = None, "No block is recorded."
NEVER_CHECKED = None, "The ledger has never been checked."

Taken = tuple[float | None, str]
"""The value of a measure, and a sentence that states the fact."""


class Picks(NamedTuple):
    """The decisions with one outcome for one miner: their number, their job seconds, and their waits for locks (µs).

    `waited` is the number of decisions that waited.
    """

    outcome: str
    miner: str
    number: int
    seconds: float
    waited_us: int
    longest_us: int
    waited: int


class Work(NamedTuple):
    """The work of a miner: its jobs, their executor-seconds, and its percentages of all jobs and of all seconds."""

    miner: str
    jobs: int
    jobs_share: float
    seconds: float
    seconds_share: float


class Hour:
    """The data for the measures at `now`, mainly the decisions and the ended reservations of the hour before.

    Fixed routes do not count, because they involve no choice of a miner. Each query runs at most once.
    """

    def __init__(self, now: dt.datetime) -> None:
        self.now = now

    @cached_property
    def newest(self) -> tuple[int, dt.datetime] | None:
        return Block.objects.order_by("-number").values_list("number", "timestamp").first()

    @property
    def number(self) -> int:
        """The number of the newest block; 0 if there is none."""
        return self.newest[0] if self.newest else 0

    @cached_property
    def synced(self) -> tuple[int, dt.datetime | None] | None:
        minted = Block.objects.filter(number=OuterRef("block")).values("timestamp")
        return ManifestSync.objects.order_by("-block").values_list("block", Subquery(minted)).first()

    @cached_property
    def blocks(self) -> Earning:
        return earning(self.number)

    @cached_property
    def lost(self) -> Absence | None:
        return absence(self.number)

    @cached_property
    def silent(self) -> list[Silence]:
        return silences(self.number)

    @cached_property
    def picks(self) -> list[Picks]:
        decided = DecisionRecord.objects.filter(at__gt=self.now - HOUR, at__lte=self.now, window_hours__isnull=False)
        sums = Count("pk"), Sum("seconds"), Sum("waited_us"), Max("waited_us")
        waited = Count("pk", filter=Q(waited_us__gt=0))
        return [Picks(*row) for row in decided.values_list("outcome", "miner").annotate(*sums, waited=waited)]

    @cached_property
    def outcomes(self) -> Counter[str]:
        return sum((Counter({pick.outcome: pick.number}) for pick in self.picks), Counter[str]())

    @cached_property
    def work(self) -> list[Work]:
        routed = [pick for pick in self.picks if pick.outcome == Outcome.ROUTED]
        jobs, seconds = sum(pick.number for pick in routed), sum(pick.seconds for pick in routed)
        return [
            Work(pick.miner, pick.number, 100 * pick.number / jobs, pick.seconds, 100 * pick.seconds / seconds)
            for pick in routed
        ]

    @cached_property
    def most_jobs(self) -> list[Work]:
        return sorted(self.work, key=lambda each: (-each.jobs, -each.seconds, each.miner))[:TOP]

    @cached_property
    def most_seconds(self) -> list[Work]:
        return sorted(self.work, key=lambda each: (-each.seconds, -each.jobs, each.miner))[:TOP]

    @cached_property
    def ended(self) -> Counter[str]:
        """The number of reservations that ended, by state. Expired ones that are not tidied yet count as HELD."""
        ended = Reservation.objects.filter(ended_at__gt=self.now - HOUR, ended_at__lte=self.now)
        unnoted = Reservation.objects.filter(expired_at(self.now), expires_at__gt=self.now - HOUR)
        by_state = [rows.values_list("state").annotate(number=Count("pk")) for rows in (ended, unnoted)]
        # Each of the two queries uses its own index. Their union is one query, so a row that is tidied meanwhile is
        # counted once.
        return Counter(dict(by_state[0].union(by_state[1], all=True)))

    @cached_property
    def check(self) -> tuple[dt.datetime, int, int] | None:
        return LedgerCheck.objects.order_by("-at").values_list("at", "differences", "left").first()

    @cached_property
    def followed(self) -> Followed:
        return read_followed(self.now)

    def age(self, then: dt.datetime) -> float:
        """Return the seconds since `then`; below 0 if it lies in the future, by the clock of this host."""
        return (self.now - then).total_seconds()


MEASURES: dict[str, Measure[Hour]] = {}
"""All measures by name, in display order."""


def measure(
    unit: str, advice: str, limits: Limits | Callable[[], Limits], *, without: Level = Level.OK
) -> Callable[[Callable[[Hour], Taken]], Callable[[Hour], Taken]]:
    """Return a decorator that registers a function as a measure. The function returns the value and the fact."""

    def add(take: Callable[[Hour], Taken]) -> Callable[[Hour], Taken]:
        bounds = limits if callable(limits) else lambda: limits
        MEASURES[take.__name__] = Measure(take.__name__, unit, advice, bounds, without, take)
        return take

    return add


def _of_readiness() -> Limits:
    ready = conf.ROUTING_READY_MAX_BLOCK_AGE
    return Limits(ready / 2, ready)


def _of_patience() -> Limits:
    return Limits(lock_timeout() / 2, lock_timeout())


@measure(
    "s",
    "Check the clocks. Check that the chain follower is running, and read its log.",
    _of_readiness,
    without=Level.CRITICAL,
)
def block_age(hour: Hour) -> Taken:
    if hour.newest is None:
        return NO_BLOCK
    number, timestamp = hour.newest
    age = hour.age(timestamp)
    return age, f"Block {number} was minted {ago(age)}."


@measure("", CHECK_BLOCKS, Limits(0, MANY))
def block_gaps(hour: Hour) -> Taken:
    return (hour.blocks.missing, hour.blocks.sentence) if hour.newest else NO_BLOCK


@measure("", CHECK_STAKE, Limits(0, MANY))
def blocks_without_stake(hour: Hour) -> Taken:
    without = hour.blocks.without_stake
    fact = f"Our own stake share was 0 in {without} of the last {hour.blocks.recorded} recorded blocks."
    return (without, fact) if hour.newest else NO_BLOCK


@measure("%", CHECK_NEURONS, Limits(50, 90))
def missing_miners(hour: Hour) -> Taken:
    if hour.newest is None:
        return NO_BLOCK
    if hour.lost is None:
        return 0, "The newest neuron list, if there is one, shows no unusual loss of miners."
    return hour.lost.percent, hour.lost.sentence


@measure(
    "s",
    "Check that the chain follower still asks the miners for their manifests.",
    Limits(900, 3600),
    without=Level.CRITICAL,
)
def manifest_age(hour: Hour) -> Taken:
    if hour.newest is None:
        return NO_BLOCK
    if hour.synced is None:
        return None, "No manifests are recorded."
    (number, timestamp), (block, at) = hour.newest, hour.synced
    if at is None:  # the block is not recorded: assume blocks of normal duration
        at = timestamp - dt.timedelta(microseconds=(number - block) * BLOCK_DURATION_US)
    age = hour.age(at)
    if 0 > age >= -MAX_AHEAD.total_seconds() and block > number:  # its block is not recorded yet
        age = 0
    return age, f"The newest manifests are from block {block}, minted {ago(age)}."


@measure("%", CHECK_MANIFESTS, Limits(50, 90))
def silent_miners(hour: Hour) -> Taken:
    if hour.newest is None:
        return NO_BLOCK
    if not hour.silent:
        return 0, "No manifest sync that still affects the allowance shows an unusual loss of executors."
    named = [silence.sentence for silence in hour.silent[:2]]
    more = [f"Similar losses not shown: {left}."] if (left := len(hour.silent) - 2) > 0 else []
    return hour.silent[0].percent, " ".join(named + more)


@measure(
    "",
    "Miners need no collateral to get a job. To require it, set DYNAMIC_MINIMUM_COLLATERAL_AMOUNT_WEI in the admin "
    "under Config. ComputeHorde uses 1e16.",
    Limits(0, 0),
    without=Level.INFO,
)
def collateral_filter(_hour: Hour) -> Taken:
    least = policy().minimum_wei
    return (0, f"Miners need a collateral of {wei_text(least)}.") if least else (None, "The collateral gate is off.")


@measure("%", "The findings on each kind of refusal say what to do.", Limits(25, 50))
def refusals(hour: Hour) -> Taken:
    total = hour.outcomes.total()
    return _share(total - hour.outcomes[Outcome.ROUTED], total, "picks", "were refused")


def _measure_refusals(outcome: Outcome, advice: str, limits: Limits, fact: str) -> None:
    def take(hour: Hour) -> Taken:
        return _share(hour.outcomes[outcome], hour.outcomes.total(), "picks", fact)

    take.__name__ = outcome.lower()
    measure("%", advice, limits)(take)


_measure_refusals(
    Outcome.NOT_ENOUGH_ALLOWANCE,
    "Ask callers to send shorter jobs and to release unused reservations, or wait for new blocks.",
    Limits(20, 40),
    "found no miner with enough allowance",
)
_measure_refusals(
    Outcome.NOT_ENOUGH_COLLATERAL,
    "Lower DYNAMIC_MINIMUM_COLLATERAL_AMOUNT_WEI, or wait until miners post more.",
    Limits(10, 30),
    "found no miner with enough collateral",
)
_measure_refusals(
    Outcome.ALL_MINERS_BUSY,
    "Look for jobs without a finished receipt, or send fewer jobs at the same time.",
    Limits(10, 30),
    "found all miners busy",
)
_measure_refusals(
    Outcome.LOCK_TIMEOUT,
    "Look for a transaction that does not end, or increase ALLOWANCE_LOCK_TIMEOUT.",
    Limits(0, 1),
    "gave up waiting for locks",
)


@measure("%", "Find the caller that neither spends nor releases its reservations.", Limits(5, 20))
def expired_reservations(hour: Hour) -> Taken:
    expired = hour.ended[ReservationState.EXPIRED] + hour.ended[ReservationState.HELD]
    return _share(expired, hour.ended.total(), "reservations that ended", "expired unclaimed")


@measure(
    "",
    "Many live reservations make each pick of their class slow. Find the caller that makes more reservations than "
    "there are executors.",
    Limits(20_000, 100_000),
)
def live_reservations(hour: Hour) -> Taken:
    number = Reservation.objects.filter(held_at(hour.now)).count()
    return number, f"{number} reservations are live."


DRY_RUN = "manage.py dry_run_routing shows why other miners do not get the jobs."


@measure("%", f"Many jobs compete for the same few miners. {DRY_RUN}", Limits(5, 25))
def lock_waits(hour: Hour) -> Taken:
    waited, total = sum(pick.waited for pick in hour.picks), sum(pick.waited_us for pick in hour.picks) / 1e6
    return _share(waited, hour.outcomes.total(), "picks", f"waited for locks, {digits(total)} s in total")


@measure("s", "Look for slow transactions that keep accounts locked.", _of_patience)
def longest_lock_wait(hour: Hour) -> Taken:
    if not hour.picks:
        return lock_waits(hour)
    longest = max(pick.longest_us for pick in hour.picks) / 1e6
    return longest, f"The longest wait of a pick for locks was {digits(longest)} s."


@measure("%", DRY_RUN, Limits(50, 80))
def most_jobs(hour: Hour) -> Taken:
    jobs = hour.outcomes[Outcome.ROUTED]
    if jobs < FEW:
        return None, f"{jobs or 'No'} jobs were routed in the last hour, too few for a percentage."
    most = hour.most_jobs[0]
    return most.jobs_share, f"{most.miner} got {most.jobs} of {jobs} jobs routed in the last hour."


@measure("%", DRY_RUN, Limits(50, 80))
def most_seconds(hour: Hour) -> Taken:
    if hour.outcomes[Outcome.ROUTED] < FEW:
        return most_jobs(hour)
    most, seconds = hour.most_seconds[0], sum(each.seconds for each in hour.work)
    fact = f"{most.miner} got {most.seconds:,.0f} of {seconds:,.0f} s routed in the last hour."
    return most.seconds_share, fact


@measure(
    "",
    "Run manage.py check_ledger. If it finds differences, run it again with --repair.",
    Limits(0, 0),
    without=Level.UNKNOWN,
)
def ledger_differences(hour: Hour) -> Taken:
    if hour.check is None:
        return NEVER_CHECKED
    _, differences, left = hour.check
    return left, f"The newest check found {differences} differences, and {left} of them remain."


@measure("s", "Run manage.py check_ledger every day.", Limits(2 * DAY, 30 * DAY), without=Level.UNKNOWN)
def ledger_check_age(hour: Hour) -> Taken:
    if hour.check is None:
        return NEVER_CHECKED
    age = hour.age(hour.check[0])
    return age, f"The ledger was checked {ago(age)}."


def _share(part: int, total: int, of: str, fact: str) -> Taken:
    """Return the percentage and the fact. The percentage is None if `total` is below FEW."""
    if not total:
        return None, f"There were no {of} in the last hour."
    sentence = f"{part} of {total} {of} in the last hour {fact}"
    return (100 * part / total, f"{sentence}.") if total >= FEW else (None, f"{sentence}, too few for a percentage.")
