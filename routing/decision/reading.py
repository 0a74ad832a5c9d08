"""The input of a decision, read in one statement, and so from one snapshot of the database.

On PostgreSQL a process remembers what it read, and reads what has changed since: see allowance.plumbing.transactions.
Processes therefore need no messages from each other: each reading contains all that others have committed. A
transaction that stays open makes the readings longer, because all rows that were written since it began are read again.
"""

from __future__ import annotations

import datetime as dt
import math
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import BigIntegerField, CharField, DateTimeField, QuerySet

from allowance.interface import (
    EXECUTOR_CLASSES,
    Balance,
    Chain,
    Entry,
    Expired,
    Hold,
    Standing,
    Window,
    clock,
    ledger,
    reading,
)
from allowance.plumbing.compiled import Compiled, Param
from allowance.plumbing.database import database
from allowance.plumbing.union import Row as Read
from allowance.plumbing.union import union
from receipts.interface import Jobs, ongoing
from routing.decision import in_force
from routing.decision.board import Board, Line
from routing.decision.in_force import InForce

SLACK = dt.timedelta(seconds=60)
"""How long an ended job is remembered: clocks of threads and callers may be behind by less."""


LASTS = 60.0
"""Seconds after which all rows are read again, as they are after each block.

A process so forgets jobs that are over, and learns of changes that were made by hand.
"""


class Row(NamedTuple):
    """A miner in a class, with its account as stored. Unless that changes, the row is right from `since` to `until`.

    In the `balance` the blocks of `expired` reservations are free; `expired` has their blocks by id. `ongoing` are the
    ongoing jobs, or the ids of reservations without a job. Only a registered miner has a `standing`.
    """

    entry: Entry
    balance: Balance
    expired: Expired
    standing: Standing | None
    ongoing: set[str | int]
    since: dt.datetime
    until: dt.datetime

    @property
    def line(self) -> Line | None:
        """The line of a registered miner on the board."""
        return self.standing and Line(self.standing, self.balance.is_reachable, len(self.ongoing))


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
IN_THE_END = dt.datetime.max.replace(tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class State:
    """What is known of a class after a reading. It never changes: the next reading makes another one from it.

    The `rows` by hotkey, and the `board` of those that are registered, are right at the time of the reading. A reading
    returns the rows of the transactions from number `since` on; 0 means all rows. The number has its meaning on the
    database `server` only. Jobs that ended before `floor` are not known. After `until`, by the monotonic clock, all
    rows are read again.
    """

    chain: Chain = reading.NO_CHAIN
    entries: Mapping[str, Entry] = field(default_factory=dict)
    jobs: Jobs = field(default_factory=Jobs)
    rows: Mapping[str, Row] = field(default_factory=dict)
    board: Board = field(default_factory=lambda: Board.of(()))
    since: int = 0
    server: dt.datetime = LONG_AGO
    floor: dt.datetime = LONG_AGO
    until: float = -math.inf

    def at(self, now: dt.datetime, changed: Collection[str] | None = None) -> State:
        """Return the state with rows and board as they are at `now`. Only `changed` miners (None: all) have changed."""
        if changed is None:
            rows = self._rows(self.entries, now)
            lines = [line for row in rows.values() if (line := row.line)]
            return replace(self, rows=rows, board=Board.of(lines))
        over = {hotkey for hotkey, row in self.rows.items() if not row.since <= now < row.until}
        anew = self._rows(over.union(changed) & self.entries.keys(), now)
        lines = [line for row in anew.values() if (line := row.line)]
        return replace(self, rows={**self.rows, **anew}, board=self.board.after(lines)) if anew else self

    def _rows(self, hotkeys: Iterable[str], now: dt.datetime) -> dict[str, Row]:
        found, unknown = {}, []
        for hotkey in hotkeys:
            entry, before = self.entries[hotkey], self.rows.get(hotkey)
            balance, expired = reading.free_expired(entry, now)
            standing = before.standing if before and before.balance == balance else None
            if standing is None and balance.registered:
                unknown.append(balance)
            found[hotkey] = Row(
                entry, balance, expired, standing, self._ongoing(entry, now), *self._lasting(entry, now)
            )
        for standing in ledger.survey(self.chain.window, unknown):
            hotkey = standing.balance.hotkey
            found[hotkey] = found[hotkey]._replace(standing=standing)
        return found

    def _ongoing(self, entry: Entry, now: dt.datetime) -> set[str | int]:
        found: set[str | int] = {*self.jobs.running(entry.balance.hotkey, now)}
        for hold in entry.holds:
            if hold.expires_at > now and not (hold.job and self.jobs.is_finished(hold.job)):
                found.add(hold.job or hold.pk)
        return found

    def _lasting(self, entry: Entry, now: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
        """Return between which times nothing of a miner changes by itself."""
        since, until = LONG_AGO, IN_THE_END
        for instant in chain((hold.expires_at for hold in entry.holds), self.jobs.instants(entry.balance.hotkey)):
            if instant <= now:
                since = max(since, instant)
            else:
                until = min(until, instant)
        return since, until


class Seen(NamedTuple):
    """The input of a decision: the state of a class, and what is in force, at a time."""

    state: State
    in_force: InForce
    at: dt.datetime

    @property
    def window(self) -> Window:
        """The usable blocks."""
        return self.state.chain.window

    def holding(self, holds: Mapping[str, Iterable[Hold]]) -> Seen:
        """Return the input with more reservations, by hotkey."""
        entries = {hotkey: self.state.entries[hotkey].holding(more) for hotkey, more in holds.items()}
        return self._replace(state=replace(self.state, entries={**self.state.entries, **entries}).at(self.at, entries))


_states: dict[tuple[str, str], State] = {}
"""The state after a recent reading, by database alias and class.

Threads may store states in any order. Each state contains the number from which to read on, so an older state only
makes the next reading longer.
"""


def read(executor_class: str, now: dt.datetime | None = None, *, has_written: bool | None = None) -> Seen:
    """Return what a decision depends on, at the time of the reading, or at `now`. An unknown class has no miners.

    What a transaction reads that `has_written` (None: every transaction) is not remembered: it may be rolled back.
    """
    known = executor_class if executor_class in EXECUTOR_CLASSES else ""
    connection = database()
    place = connection.alias, known
    if has_written is None:
        has_written = any(not getattr(block, "_from_testcase", False) for block in connection.atomic_blocks)
    before = State() if has_written else _states.get(place, State())
    if now and now < before.floor:  # jobs may have run then that are forgotten
        before = State()
    seen = _read_on(before, known, now)
    if not has_written:
        _states[place] = seen.state
    return seen


def as_text(job: UUID) -> str:
    """Return a job's uuid as the database writes it. UUID objects are slower to look up."""
    return str(job) if database().features.has_native_uuid_field else job.hex


def forget() -> None:
    """Forget all that this process remembers."""
    _states.clear()


def _read_on(state: State, executor_class: str, now: dt.datetime | None) -> Seen:
    """Return what is seen after another reading of a class. It takes one statement, or more if the chain changed."""
    while True:
        rows, floor, until = _changed(state, executor_class), state.floor, state.until
        are_all = rows is None
        if rows is None:
            floor, until = (now or clock.now()) - SLACK, time.monotonic() + LASTS
            asked = {"executor_class": executor_class, "at": floor, **in_force.names()}
            rows = [Read(*row) for row in WHOLE.fetch(**asked)]
        snapshot = _snapshot_of(rows)
        if snapshot and (
            snapshot.number != state.chain.version
            or any(row.kind == reading.ACCOUNT and row.key not in state.chain.miners for row in rows)
        ):
            state = _with_chain(state, reading.read_chain(executor_class))
            continue
        found = (Jobs() if are_all else state.jobs).after(rows)
        if found is None:
            state = replace(state, since=0)
            continue
        jobs, changed = found
        entries = reading.entries(rows, state.entries, state.chain.miners, executor_class)
        after = State(
            state.chain,
            entries if are_all else {**state.entries, **entries},
            jobs,
            state.rows,
            state.board,
            (snapshot.low or 0) if snapshot else 0,
            (snapshot.at if snapshot else None) or LONG_AGO,
            floor,
            until,
        )
        at = now or clock.now(told=snapshot and snapshot.until)
        return Seen(after.at(at, None if are_all else changed.union(entries)), in_force.parse(rows), at)


def _changed(state: State, executor_class: str) -> list[Read] | None:
    """Return the rows that have changed since the last reading, or None if all rows must be read."""
    if not state.since or time.monotonic() > state.until:
        return None
    asked = {"executor_class": executor_class, "since": state.since, **in_force.names()}
    rows = [Read(*row) for row in CHANGES.fetch(**asked)]
    snapshot = _snapshot_of(rows)
    if snapshot is None or snapshot.at != state.server or (snapshot.base or 0) < state.since:
        return None  # another server numbers other transactions
    return rows


def _snapshot_of(rows: Iterable[Read]) -> Read | None:
    return next((row for row in rows if row.kind == reading.SNAPSHOT), None)


def _with_chain(state: State, chain: Chain) -> State:
    """Return the state at another version of the chain. All rows are read again: accounts may have been deleted."""
    entries = {
        hotkey: reading.moved(entry, chain.miners[hotkey])
        for hotkey, entry in state.entries.items()
        if hotkey in chain.miners
    }
    return replace(state, chain=chain, entries=entries, rows={}, since=0)
