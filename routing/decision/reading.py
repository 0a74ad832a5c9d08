"""The input of a decision, read in one statement, and so from one snapshot of the database.

On PostgreSQL a process remembers what it read, and reads what has changed since: see allowance.plumbing.transactions.
Processes therefore need no messages from each other: each reading contains all that others have committed. A
transaction that stays open makes the readings longer, because all rows that were written since it began are read again.
"""

from __future__ import annotations

import datetime as dt
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from uuid import UUID

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.models import BigIntegerField, CharField, DateTimeField, QuerySet
from django.utils import timezone

from allowance.interface import (
    EXECUTOR_CLASSES,
    Balance,
    Chain,
    Entry,
    Window,
    reading,
)
from allowance.plumbing.compiled import Compiled, Param
from allowance.plumbing.union import Row, union
from receipts.interface import Jobs, ongoing
from routing.decision import in_force
from routing.decision.in_force import InForce

SLACK = dt.timedelta(seconds=60)
"""How long an ended job is remembered: clocks of threads and callers may be behind by less."""


LASTS = 60.0
"""Seconds after which all rows are read again, as they are after each block.

A process so forgets jobs that are over, and learns of changes that were made by hand.
"""


class Seen(NamedTuple):
    """The input of a decision: the usable blocks, the balances and ongoing jobs by hotkey, and what is in force.

    In the `balances`, the blocks of `expired` reservations are free. `expired` has the numbers of their blocks by
    hotkey and reservation. Miners without any are left out, of the `ongoing` too. `entries` are the accounts as stored.
    """

    window: Window
    balances: dict[str, Balance]
    ongoing: dict[str, set[str | int]]
    in_force: InForce
    at: dt.datetime
    entries: Mapping[str, Entry]
    expired: dict[str, dict[int, list[int]]]


_CLASS = Param("executor_class", CharField())


def _whole() -> QuerySet[Any, Any]:
    at = Param("at", DateTimeField())
    ledger = reading.accounts(_CLASS), reading.holds(_CLASS, over=ongoing.finished_at())
    return union(*ledger, *ongoing.valid(_CLASS, at), *in_force.stored(_CLASS), reading.snapshot())


def _changes() -> QuerySet[Any, Any]:
    since = Param("since", BigIntegerField())
    ledger = reading.accounts(_CLASS, since), reading.holds(_CLASS, since, over=ongoing.finished_at())
    return union(*ledger, *ongoing.changed(_CLASS, since), *in_force.stored(_CLASS), reading.snapshot())


WHOLE, CHANGES = Compiled(_whole), Compiled(_changes)
"""The statements of a reading: of all rows that a decision on a class depends on, and of the changed ones only."""


LONG_AGO = dt.datetime.min.replace(tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class State:
    """What was known of a class after a reading. It never changes: the next reading makes another one from it.

    A reading returns the rows of the transactions from number `since` on; 0 means all rows. The number has its meaning
    on the database `server` only. Jobs that ended before `floor` are not known. After `until`, by the monotonic clock,
    all rows are read again.
    """

    chain: Chain = reading.NO_CHAIN
    entries: Mapping[str, Entry] = field(default_factory=dict)
    jobs: Jobs = field(default_factory=Jobs)
    since: int = 0
    server: dt.datetime = LONG_AGO
    floor: dt.datetime = LONG_AGO
    until: float = -math.inf


_states: dict[tuple[str, str], State] = {}
"""The state after a recent reading, by database alias and class.

Threads may store states in any order. Each state contains the number from which to read on, so an older state only
makes the next reading longer.
"""


def read(
    executor_class: str,
    now: dt.datetime,
    clock: Callable[[dt.datetime], dt.datetime] | None = None,
    *,
    has_written: bool | None = None,
    using: str = DEFAULT_DB_ALIAS,
) -> Seen:
    """Return what a decision depends on. An unknown class has no balances.

    It is of the time `now`, or with a `clock` of the time that the clock gives for `now` after the statement. What a
    transaction reads that `has_written` (None: every transaction) is not remembered: it may be rolled back.
    """
    known = executor_class if executor_class in EXECUTOR_CLASSES else ""
    if has_written is None:
        has_written = any(not getattr(block, "_from_testcase", False) for block in connections[using].atomic_blocks)
    before = State() if has_written else _states.get((using, known), State())
    if now < before.floor:  # jobs may have run then that are forgotten
        before = State()
    state, in_force_now = _read_on(before, known, now, using)
    if not has_written:
        _states[using, known] = state
    return _seen(state, in_force_now, clock(now) if clock else now)


def as_text(job: UUID) -> str:
    """Return a job's uuid as the database writes it. UUID objects are slower to look up."""
    return str(job) if connections[DEFAULT_DB_ALIAS].features.has_native_uuid_field else job.hex


def forget() -> None:
    """Forget all that this process remembers."""
    _states.clear()


def _read_on(state: State, executor_class: str, now: dt.datetime, using: str) -> tuple[State, InForce]:
    """Return the state after another reading, and what is in force.

    It takes one statement, or five if the chain has changed.
    """
    while True:
        rows, floor, until = _changed(state, executor_class, using), state.floor, state.until
        are_all = rows is None
        if rows is None:
            floor, until = min(now, timezone.now()) - SLACK, time.monotonic() + LASTS
            asked = {"executor_class": executor_class, "at": floor, **in_force.names()}
            rows = [Row(*row) for row in WHOLE.fetch(using, **asked)]
        snapshot = _snapshot_of(rows)
        if snapshot and (
            snapshot.number != state.chain.version
            or any(row.kind == reading.ACCOUNT and row.key not in state.chain.miners for row in rows)
        ):
            state = _with_chain(state, reading.read_chain(executor_class))
            continue
        jobs = (Jobs() if are_all else state.jobs).after(rows)
        if jobs is None:
            state = replace(state, since=0)
            continue
        found = reading.entries(rows, state.entries, state.chain.miners, executor_class)
        after = State(
            state.chain,
            found if are_all else {**state.entries, **found},
            jobs,
            (snapshot.low or 0) if snapshot else 0,
            (snapshot.at if snapshot else None) or LONG_AGO,
            floor,
            until,
        )
        return after, in_force.parse(rows)


def _changed(state: State, executor_class: str, using: str) -> list[Row] | None:
    """Return the rows that have changed since the last reading, or None if all rows must be read."""
    if not state.since or time.monotonic() > state.until:
        return None
    asked = {"executor_class": executor_class, "since": state.since, **in_force.names()}
    rows = [Row(*row) for row in CHANGES.fetch(using, **asked)]
    snapshot = _snapshot_of(rows)
    if snapshot is None or snapshot.at != state.server or (snapshot.base or 0) < state.since:
        return None  # another server numbers other transactions
    return rows


def _snapshot_of(rows: Iterable[Row]) -> Row | None:
    return next((row for row in rows if row.kind == reading.SNAPSHOT), None)


def _with_chain(state: State, chain: Chain) -> State:
    """Return the state at another version of the chain. All rows are read again: accounts may have been deleted."""
    entries = {
        hotkey: reading.moved(entry, chain.miners[hotkey])
        for hotkey, entry in state.entries.items()
        if hotkey in chain.miners
    }
    return replace(state, chain=chain, entries=entries, since=0)


def _seen(state: State, in_force_now: InForce, now: dt.datetime) -> Seen:
    ongoing_jobs: dict[str, set[str | int]] = {}
    for miner, job in state.jobs.running(now):
        ongoing_jobs.setdefault(miner, set()).add(job)
    balances, expired = {}, dict[str, dict[int, list[int]]]()
    for hotkey, entry in state.entries.items():
        balances[hotkey], over = reading.free_expired(entry, now) if entry.holds else (entry.balance, None)
        if over:
            expired[hotkey] = over
        for hold in entry.holds:
            if hold.expires_at > now and not (hold.job and state.jobs.is_finished(hold.job)):
                ongoing_jobs.setdefault(hotkey, set()).add(hold.job or hold.pk)
    return Seen(state.chain.window, balances, ongoing_jobs, in_force_now, now, state.entries, expired)
