"""Judge what happened from what the callers were told and what the tables say, with none of the apps' code.

Where the evidence leaves a doubt, as to what a process could already know, it is in the router's favour.
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

Moment = dt.datetime

FOR_EVER = dt.datetime.max.replace(tzinfo=dt.UTC)

REFUSALS = {
    "pick": {"NotEnoughAllowanceException", "AllMinersBusy"},
    "spend": {"ReservationAlreadySpent", "ReservationExpired", "ReservationReleased", "ReservationNotFound"},
}
REFUSALS["undo"] = REFUSALS["spend"]
ENDS = {"spend": "spent", "undo": "released"}


@dataclass(frozen=True)
class Said:
    """What a process was told: what it asked for, of which reservation, when, and the error if there was one."""

    what: str
    begun: Moment
    done: Moment
    error: str | None = None
    cause: str | None = None
    reservation: int = 0


@dataclass(frozen=True)
class Route:
    """What a caller got, and when it asked and had it."""

    reservation: int
    miner: str
    executor_class: str
    job: str
    blocks: tuple[int, ...]
    asked: Moment
    got: Moment


@dataclass(frozen=True)
class Row:
    """A reservation as the table has it."""

    reservation: int
    miner: str
    executor_class: str
    job: str
    blocks: tuple[int, ...]
    made: Moment
    expires: Moment
    state: str = "held"
    ended: Moment | None = None

    @property
    def until(self) -> Moment:
        """When its blocks were free again."""
        if self.state == "spent":
            return FOR_EVER
        return self.ended or self.expires if self.state == "released" else self.expires

    @property
    def held_until(self) -> Moment:
        return min(self.ended or self.expires, self.expires)


@dataclass(frozen=True)
class Run:
    """What a started receipt says: the job is on an executor, from when everybody could know of it."""

    miner: str
    executor_class: str
    job: str
    since: Moment
    until: Moment


@dataclass(frozen=True)
class Sync:
    """Manifests that were recorded between two moments."""

    block: int
    executors: Mapping[str, Mapping[str, int]]
    begun: Moment
    done: Moment


@dataclass(frozen=True)
class Neurons:
    """A list of neurons that was recorded between two moments."""

    hotkeys: frozenset[str]
    begun: Moment
    done: Moment


@dataclass
class Evidence:
    """All there is. The first sync and the first neurons are those from before the beginning."""

    routes: Sequence[Route] = ()
    rows: Sequence[Row] = ()
    said: Sequence[Said] = ()
    runs: Sequence[Run] = ()
    finished: Mapping[str, Moment] = field(default_factory=dict)
    syncs: Sequence[Sync] = ()
    neurons: Sequence[Neurons] = ()


def judge(evidence: Evidence) -> list[str]:
    """Return what is wrong, a sentence each."""
    return [
        *surprises(evidence.said),
        *lost_routes(evidence),
        *blocks_given_twice(evidence.rows),
        *executors_shared(evidence),
        *ends_misreported(evidence),
        *voided_blocks_given(evidence),
        *absent_miners_chosen(evidence),
    ]


def surprises(said: Sequence[Said]) -> Iterator[str]:
    for s in said:
        if s.cause == "DeadlockDetected":
            yield f"deadlock: {s.what} at {s.begun}"
        elif s.error and s.error != "LockTimeout" and s.error not in REFUSALS.get(s.what, ()):
            yield f"unexpected error: {s.error} ({s.cause}) of {s.what} at {s.begun}"


def lost_routes(evidence: Evidence) -> Iterator[str]:
    """Tell of routes that the table doesn't have as the caller got them, and of reservations that nobody got."""
    rows = {row.reservation: row for row in evidence.rows}
    for route in evidence.routes:
        row = rows.pop(route.reservation, None)
        if row is None:
            yield f"route lost: {route} is not in the table, or was given to two callers"
            continue
        got = (route.miner, route.executor_class, route.job, route.blocks)
        if got != (row.miner, row.executor_class, row.job, row.blocks) or not route.asked <= row.made <= route.got:
            yield f"route differs: {route} is {row}"
    for row in rows.values():
        yield f"held for nobody: {row} was given to no caller"


def blocks_given_twice(rows: Sequence[Row]) -> Iterator[str]:
    owners: dict[tuple[str, str, int], Row] = {}
    for row in sorted(rows, key=lambda row: (row.made, row.reservation)):
        for block in row.blocks:
            before = owners.get((row.miner, row.executor_class, block))
            if before is not None and row.made < before.until:
                yield f"block given twice: {block} of {row.miner} to {before.reservation}, then {row.reservation}"
            if before is None or before.until < row.until:
                owners[row.miner, row.executor_class, block] = row


def executors_shared(evidence: Evidence) -> Iterator[str]:
    """Count the jobs that were ongoing at the moment of each reservation, that one too."""
    busy: defaultdict[tuple[str, str], list[tuple[Moment, Moment, str]]] = defaultdict(list)
    for row in evidence.rows:
        until = min(row.held_until, evidence.finished.get(row.job, FOR_EVER))
        busy[row.miner, row.executor_class].append((row.made, until, row.job))
    for run in evidence.runs:
        until = min(run.until, evidence.finished.get(run.job, FOR_EVER))
        busy[run.miner, run.executor_class].append((run.since, until, run.job))
    for spans in busy.values():
        spans.sort(reverse=True)
    ongoing: defaultdict[tuple[str, str], list[tuple[Moment, Moment, str]]] = defaultdict(list)
    for row in sorted(evidence.rows, key=lambda row: row.made):
        key = row.miner, row.executor_class
        while busy[key] and busy[key][-1][0] <= row.made:
            ongoing[key].append(busy[key].pop())
        ongoing[key] = [span for span in ongoing[key] if span[1] > row.made]
        jobs = {job for _, _, job in ongoing[key]} | {row.job}
        allowed = executors(evidence.syncs, row)
        if len(jobs) > allowed:
            yield f"executor shared: {len(jobs)} jobs on {allowed} of {row.miner} when {row.reservation} was made"


def executors(syncs: Sequence[Sync], row: Row) -> int:
    """Return the most executors that the miner could have been known to have when the reservation was made."""
    last = max(0, bisect_right(syncs, row.made, key=lambda sync: sync.done) - 1)
    possible = [sync for sync in syncs[last : last + 2] if sync.begun <= row.made]
    return max((sync.executors.get(row.miner, {}).get(row.executor_class, 0) for sync in possible), default=0)


def ends_misreported(evidence: Evidence) -> Iterator[str]:
    """Compare every end that a caller was told of, and every refusal to end, with what became of the reservation."""
    rows = {row.reservation: row for row in evidence.rows}
    given = {route.reservation: route.got for route in evidence.routes}
    ends: defaultdict[int, list[str]] = defaultdict(list)
    for s in evidence.said:
        if s.what not in ENDS or s.error == "LockTimeout":
            continue
        row = rows.get(s.reservation)
        if s.error is None:
            ends[s.reservation].append(ENDS[s.what])
        elif s.error in REFUSALS[s.what] and not refused_rightly(s, row, given):
            yield f"untrue refusal: {s.error} at {s.done} of {row or s.reservation}"
    for row in rows.values():
        told = [row.state] if row.state in ENDS.values() else []
        if ends.pop(row.reservation, []) != told:
            yield f"end differs: callers were told otherwise of {row}"
        if told and not row.made <= (row.ended or FOR_EVER) < row.expires:
            yield f"ended too late: {row}"
        if row.state == "expired" and row.ended != row.expires:
            yield f"expired at another instant: {row}"
    for reservation in ends:
        yield f"end differs: {reservation} was ended and is not in the table"


def refused_rightly(refusal: Said, row: Row | None, given: Mapping[int, Moment]) -> bool:
    if refusal.error == "ReservationNotFound":  # or it was not committed yet
        return row is None or given.get(row.reservation, FOR_EVER) > refusal.begun
    if row is None:
        return False
    if refusal.error == "ReservationExpired":
        return row.state in {"expired", "held"} and row.expires <= refusal.done
    return row.state == {"ReservationAlreadySpent": "spent", "ReservationReleased": "released"}[refusal.error or ""]


def voided_blocks_given(evidence: Evidence) -> Iterator[str]:
    drops: defaultdict[tuple[str, str], list[Sync]] = defaultdict(list)
    for before, after in pairwise(evidence.syncs):
        for miner, counts in before.executors.items():
            for executor_class, count in counts.items():
                if after.executors.get(miner, {}).get(executor_class, 0) < count:
                    drops[miner, executor_class].append(after)
    for row in evidence.rows:
        known = [drop.block for drop in drops[row.miner, row.executor_class] if drop.done <= row.made]
        if known and min(row.blocks) < max(known):
            yield f"voided blocks given: {row} after the drop at {max(known)}"


def absent_miners_chosen(evidence: Evidence) -> Iterator[str]:
    for row in evidence.rows:
        last = max(0, bisect_right(evidence.neurons, row.made, key=lambda neurons: neurons.done) - 1)
        possible = [neurons for neurons in evidence.neurons[last : last + 2] if neurons.begun <= row.made]
        if possible and not any(row.miner in neurons.hotkeys for neurons in possible):
            yield f"absent miner chosen: {row}"
