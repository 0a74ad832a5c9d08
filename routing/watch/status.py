"""The state of routing: figures of the last hour, measured against the limits of `routing.watch.alerts`."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from django.db.models import Count, Max, OuterRef, Q, Subquery, Sum

from allowance.interface import (
    BLOCK_DURATION_US,
    MAX_AHEAD,
    Block,
    LedgerCheck,
    LockTimeout,
    ManifestSync,
    NotEnoughAllowanceException,
    Reservation,
    ReservationState,
    absence,
    earning,
    held_at,
    lapsed_at,
    newest_block,
    silences,
    wei_text,
)
from routing.decision.in_force import policy
from routing.models import DecisionRecord
from routing.types import ROUTED, AllMinersBusy, NotEnoughCollateralException
from routing.watch.alerts import Finding, Level, amount, digits, judge

HOUR = dt.timedelta(hours=1)

TOP = 5
"""So many of the miners with most of the work are named."""

FEW = 20
"""A share of fewer than these tells nothing: at a quiet hour one refusal would be all of them."""

Measured = dict[str, tuple[float | None, str]]
"""By the name of a measure, its value and the fact in words."""


class Refusal(NamedTuple):
    """The measure of a refusal, and what it says in a few words and in a sentence."""

    measure: str
    label: str
    fact: str


REFUSALS: Mapping[str, Refusal] = {
    NotEnoughAllowanceException.__name__: Refusal(
        "refused_for_allowance", "no allowance", "found no miner with enough allowance"
    ),
    NotEnoughCollateralException.__name__: Refusal(
        "refused_for_collateral", "low collateral", "found no miner with enough collateral"
    ),
    AllMinersBusy.__name__: Refusal("refused_as_busy", "all busy", "found all miners busy"),
    LockTimeout.__name__: Refusal("refused_for_locks", "locked", "gave up waiting for locks"),
}
"""By the outcome of the decision."""


class Picks(NamedTuple):
    """So many decisions with one outcome for one miner; their waits for locks, in microseconds, and how many waited."""

    outcome: str
    miner: str
    number: int
    seconds: float
    waited_us: int
    longest_us: int
    waited: int


class Work(NamedTuple):
    """What a miner got: jobs, the executor-seconds of them all, and what percentage of everybody's that is."""

    miner: str
    jobs: int
    jobs_share: float
    seconds: float
    seconds_share: float


@dataclass(frozen=True, slots=True)
class Status:
    """The findings at a moment, the worst first, and the miners that got most of the work in the hour before it."""

    at: dt.datetime
    findings: tuple[Finding, ...]
    most_jobs: tuple[Work, ...]
    most_seconds: tuple[Work, ...]

    @property
    def level(self) -> Level:
        """How the worst of the findings stands; those worth to know only are fine."""
        worst = self.findings[0].level
        return Level.OK if worst is Level.INFO else worst

    @property
    def sentence(self) -> str:
        """Which findings are not fine, in one line."""
        named = [finding.title for finding in self.findings if finding.level not in {Level.OK, Level.INFO}]
        if named:
            return f"{len(named)} of {len(self.findings)} findings: {', '.join(named)}."
        to_know = [finding.title for finding in self.findings if finding.level is Level.INFO]
        return " ".join(["All is well.", *([f"Worth to know: {', '.join(to_know)}."] if to_know else [])])


def status(now: dt.datetime) -> Status:
    """Return how routing stands at `now`, by the decisions made and the reservations ended in the hour before it.

    Fixed routes do not count: nobody was asked. Raises ImproperlyConfigured if ROUTING_STATUS_LIMITS is bad.
    """
    picks = _picks(now)
    work = _work([pick for pick in picks if pick.outcome == ROUTED])
    most_jobs = sorted(work, key=lambda each: (-each.jobs, -each.seconds, each.miner))[:TOP]
    most_seconds = sorted(work, key=lambda each: (-each.seconds, -each.jobs, each.miner))[:TOP]
    measured = {
        **_chain(now),
        **_earning(),
        **_collateral(),
        **_refusals(picks),
        **_lapses(now),
        **_live(now),
        **_locks(picks),
        **_concentration(work, most_jobs, most_seconds),
        **_ledger(now),
    }
    findings = sorted(judge(measured), key=lambda finding: -finding.level.badness)
    return Status(now, tuple(findings), tuple(most_jobs), tuple(most_seconds))


def _chain(now: dt.datetime) -> Measured:
    newest = Block.objects.order_by("-number").values_list("number", "timestamp").first()
    minted = Block.objects.filter(number=OuterRef("block")).values("timestamp")
    synced = ManifestSync.objects.order_by("-block").values_list("block", Subquery(minted)).first()
    if newest is None:
        return {"block_age": (None, "No block is recorded."), "manifest_age": (None, "No block is recorded.")}
    number, timestamp = newest
    age = _age(timestamp, now)
    measured: Measured = {"block_age": (age, f"Block {number} was minted {_ago(age)}.")}
    if synced is None:
        return {**measured, "manifest_age": (None, "No manifests are recorded.")}
    block, at = synced
    if at is None:  # as if the blocks between had been of ordinary length
        at = timestamp - dt.timedelta(microseconds=(number - block) * BLOCK_DURATION_US)
    age = _age(at, now)
    if 0 > age >= -MAX_AHEAD.total_seconds() and block > number:  # its blocks are still to be recorded
        age = 0
    return {**measured, "manifest_age": (age, f"The newest manifests are of block {block}, {_ago(age)}.")}


def _earning() -> Measured:
    newest = newest_block()
    blocks, lost, silent = earning(newest), absence(newest), silences(newest)
    if not blocks.recorded:
        return dict.fromkeys(
            ("block_gaps", "blocks_without_stake", "missing_miners", "silent_miners"),
            (None, "No block is recorded."),
        )
    return {
        "block_gaps": (blocks.missing, blocks.sentence),
        "blocks_without_stake": (
            blocks.without_stake,
            f"Our own stake share was 0 in {blocks.without_stake} of the last {blocks.recorded} blocks.",
        ),
        "missing_miners": (
            lost.percent if lost else 0,
            lost.sentence if lost else "The neuron list has most miners with executors.",
        ),
        "silent_miners": (
            max((silence.percent for silence in silent), default=0),
            " ".join(silence.sentence for silence in silent[:2])
            or "In no sync of manifests were more than half of the miners silent.",
        ),
    }


def _collateral() -> Measured:
    least = policy().minimum_wei
    if least:
        return {"collateral_filter": (0, f"Miners need a collateral of {wei_text(least)}.")}
    return {"collateral_filter": (None, "The collateral filter is off.")}


def _picks(now: dt.datetime) -> list[Picks]:
    decided = DecisionRecord.objects.filter(at__gt=now - HOUR, at__lte=now, window_hours__isnull=False)
    sums = Count("pk"), Sum("seconds"), Sum("waited_us"), Max("waited_us")
    waited = Count("pk", filter=Q(waited_us__gt=0))
    return [Picks(*row) for row in decided.values_list("outcome", "miner").annotate(*sums, waited=waited)]


def _work(routed: Sequence[Picks]) -> list[Work]:
    jobs, seconds = sum(pick.number for pick in routed), sum(pick.seconds for pick in routed)
    return [
        Work(pick.miner, pick.number, 100 * pick.number / jobs, pick.seconds, 100 * pick.seconds / seconds)
        for pick in routed
    ]


def _refusals(picks: Sequence[Picks]) -> Measured:
    outcomes: Counter[str] = Counter()
    for pick in picks:
        outcomes[pick.outcome] += pick.number
    total = outcomes.total()
    measured = {"refusals": _share(total - outcomes[ROUTED], total, "picks", "were refused")}
    for outcome, refusal in REFUSALS.items():
        measured[refusal.measure] = _share(outcomes[outcome], total, "picks", refusal.fact)
    return measured


def _locks(picks: Sequence[Picks]) -> Measured:
    waited, total = sum(pick.waited for pick in picks), sum(pick.waited_us for pick in picks) / 1e6
    fact = f"waited for locks, {digits(total)} s in all"
    measured = {"lock_waits": _share(waited, sum(pick.number for pick in picks), "picks", fact)}
    if not picks:
        return {**measured, "longest_lock_wait": (None, measured["lock_waits"][1])}
    longest = max(pick.longest_us for pick in picks) / 1e6
    return {**measured, "longest_lock_wait": (longest, f"No pick waited for locks for more than {digits(longest)} s.")}


def _lapses(now: dt.datetime) -> Measured:
    """Count what lapsed by when it did, whether its row says so or not."""
    ended = Reservation.objects.filter(ended_at__gt=now - HOUR, ended_at__lte=now)
    untidied = Reservation.objects.filter(lapsed_at(now), expires_at__gt=now - HOUR)
    by_state = [rows.values_list("state").annotate(number=Count("pk")) for rows in (ended, untidied)]
    # Each part has an index of its own, and one statement for both counts a row once that is tidied up meanwhile.
    states = Counter(dict(by_state[0].union(by_state[1], all=True)))
    lapsed = states[ReservationState.LAPSED] + states[ReservationState.HELD]
    return {"lapses": _share(lapsed, states.total(), "reservations that ended", "lapsed without a word")}


def _live(now: dt.datetime) -> Measured:
    number = Reservation.objects.filter(held_at(now)).count()
    return {"live_reservations": (number, f"{number} reservations are live.")}


def _concentration(work: Sequence[Work], most_jobs: Sequence[Work], most_seconds: Sequence[Work]) -> Measured:
    jobs = sum(each.jobs for each in work)
    if jobs < FEW:
        too_few = None, f"{jobs or 'No'} jobs were routed in the last hour, too few to tell."
        return {"most_jobs": too_few, "most_seconds": too_few}
    first, longest = most_jobs[0], most_seconds[0]
    seconds = sum(each.seconds for each in work)
    return {
        "most_jobs": (first.jobs_share, f"{first.miner} got {first.jobs} of {jobs} jobs routed in the last hour."),
        "most_seconds": (
            longest.seconds_share,
            f"{longest.miner} got {longest.seconds:,.0f} of {seconds:,.0f} s routed in the last hour.",
        ),
    }


def _ledger(now: dt.datetime) -> Measured:
    newest = LedgerCheck.objects.order_by("-at").values_list("at", "differences", "left").first()
    if newest is None:
        return dict.fromkeys(("ledger_differences", "ledger_check_age"), (None, "The ledger was never checked."))
    at, differences, left = newest
    age = _age(at, now)
    return {
        "ledger_differences": (left, f"The newest check found {differences} differences and left {left}."),
        "ledger_check_age": (age, f"The ledger was checked {_ago(age)}."),
    }


def _age(then: dt.datetime, now: dt.datetime) -> float:
    """Return how many seconds ago that was; below 0 if it is still to come, by our clock."""
    return (now - then).total_seconds()


def _ago(age: float) -> str:
    return f"{amount(age, 's')} ago" if age >= 0 else f"{amount(-age, 's')} ahead of this host's clock"


def _share(part: int, total: int, of: str, fact: str) -> tuple[float | None, str]:
    """Return the percentage and the fact, or that there is nothing, or too little, to take a share of."""
    if not total:
        return None, f"There were no {of} in the last hour."
    told = f"{part} of {total} {of} in the last hour {fact}"
    return (100 * part / total, f"{told}.") if total >= FEW else (None, f"{told}, too few to tell.")
