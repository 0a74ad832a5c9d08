"""The input of a decision. One statement reads its rows. The chain is read apart, at the version in these rows.

On PostgreSQL a process remembers what it read, and reads what has changed since: see allowance.plumbing.transactions.
Processes therefore need no messages from each other: each reading contains all that others have committed. A
transaction that stays open makes the readings longer, because all rows that were written since it began are read again.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import BigIntegerField, CharField, DateTimeField, QuerySet

from allowance.interface import (
    EXECUTOR_CLASSES,
    Window,
    clock,
    reading,
)
from allowance.plumbing.compiled import Compiled, Param
from allowance.plumbing.database import database, is_in_transaction
from allowance.plumbing.union import Row as Read
from allowance.plumbing.union import union
from receipts.interface import ongoing
from routing.decision import in_force
from routing.decision.board import NO_BOARD
from routing.decision.in_force import InForce
from routing.decision.state import LONG_AGO, State

SLACK = dt.timedelta(seconds=60)
"""The time before a reading of all rows in which ended jobs are known. An earlier decision reads all rows again."""


LASTS = 60.0
"""Seconds after which a process forgets all, and reads all rows again.

So it forgets ended jobs, and learns of changes that were made by hand, without a new version.
"""


_CLASS = Param("executor_class", CharField())


def _whole() -> QuerySet[Any, Any]:
    at = Param("at", DateTimeField())
    ledger = reading.accounts(_CLASS), reading.holds(_CLASS, over=ongoing.finished_at())
    return union(*ledger, *ongoing.valid(_CLASS, at), *in_force.stored(_CLASS), reading.snapshot())


def _changes() -> QuerySet[Any, Any]:
    since = Param("since", BigIntegerField())
    ledger = reading.accounts(_CLASS, since), reading.holds(_CLASS, since, over=ongoing.finished_at())
    return union(*ledger, *ongoing.changed(_CLASS, since), *in_force.stored(_CLASS), reading.snapshot())


WHOLE, CHANGES = Compiled(_whole, prepare=False), Compiled(_changes)
"""The statements of a reading: of all rows that a decision on a class depends on, and of the changed ones only."""


class Seen(NamedTuple):
    """The input of a decision at a time: the state of a class, its incident version and the dynamic settings."""

    state: State
    in_force: InForce
    at: dt.datetime

    @property
    def window(self) -> Window:
        """The usable blocks, also those that the policy leaves unused."""
        return self.state.chain.window

    def leaving(self, unused: int) -> Seen:
        """Return the input with another number of unused blocks."""
        if unused == self.state.unused:
            return self
        return self._replace(state=self.state.leaving(unused).at(self.at, frozenset()))


_states: dict[tuple[str, str], State] = {}
"""The state after a recent reading, by database alias and class.

Threads may store states in any order. Each state contains the number from which to read on, so an older state only
makes the next reading longer.
"""


def read(executor_class: str, now: dt.datetime | None = None, *, has_written: bool | None = None) -> Seen:
    """Return what a decision depends on, at the time of the reading, or at `now`. An unknown class has no miners.

    If the transaction `has_written`, its reading is not remembered, because it may be rolled back. None means that
    every transaction counts as having written.
    """
    known = executor_class if executor_class in EXECUTOR_CLASSES else ""
    connection = database()
    place = connection.alias, known
    if has_written is None:
        has_written = is_in_transaction(connection)
    before = State() if has_written else _states.get(place, State())
    seen = _read_on(before, known, now)
    if not has_written:
        _states[place] = seen.state
    return seen


def as_text(job: UUID) -> str:
    """Return a job's uuid as the database writes it. UUID objects are slower to look up."""
    return str(job) if database().features.has_native_uuid_field else job.hex


def forget(**_signal: object) -> None:
    """Forget all that this process remembers."""
    _states.clear()


def _read_on(state: State, executor_class: str, now: dt.datetime | None) -> Seen:
    """Return what is seen after another reading of a class.

    It takes one statement, and more if the chain has changed or if, on PostgreSQL, all rows are read.
    """
    while True:
        if time.monotonic() > state.until:
            state = State(until=time.monotonic() + LASTS, unused=state.unused)
        rows, floor = _changed(state, executor_class), state.floor
        are_all = rows is None
        if rows is None:
            floor = (now or clock.now()) - SLACK
            asked = {"executor_class": executor_class, "at": floor, **in_force.names()}
            rows = [*map(Read._make, WHOLE.fetch(**asked))]
        snapshot = _snapshot_of(rows)
        if snapshot and (
            snapshot.number != state.chain.version
            or any(row.kind == reading.ACCOUNT and row.key not in state.chain.miners for row in rows)
        ):
            state = state.with_chain(reading.read_chain(executor_class))
            if snapshot.number != state.chain.version:  # it has changed again
                continue
        jobs, changed = state.jobs.after(rows, are_all=are_all)
        entries = reading.entries(rows, state.entries, state.chain.miners, executor_class)
        changed |= {hotkey for hotkey, entry in entries.items() if entry is not state.entries.get(hotkey)}
        if are_all and entries.keys() != state.entries.keys():
            state = replace(state, rows={}, board=NO_BOARD)
        current = in_force.parse(rows)
        state = state.leaving(current.policy.unused_blocks)
        after = State(
            state.chain,
            entries if are_all else {**state.entries, **entries},
            jobs,
            state.rows,
            state.board,
            (snapshot.low or 0) if snapshot else 0,
            (snapshot.at if snapshot else None) or LONG_AGO,
            floor,
            state.until,
            state.unused,
        )
        at = now or clock.now(by_server=snapshot and snapshot.until)
        if at < floor:  # jobs may run then that are not known
            state = State()
            continue
        return Seen(after.at(at, changed), current, at)


def _changed(state: State, executor_class: str) -> list[Read] | None:
    """Return the rows that have changed since the last reading, or None if all rows must be read."""
    if not state.since:
        return None
    asked = {"executor_class": executor_class, "since": state.since, **in_force.names()}
    rows = [*map(Read._make, CHANGES.fetch(**asked))]
    snapshot = _snapshot_of(rows)
    if snapshot is None or snapshot.at != state.server or (snapshot.base or 0) < state.since:
        return None  # the number is from another server, or from before a restart
    return rows


def _snapshot_of(rows: Iterable[Read]) -> Read | None:
    return next((row for row in rows if row.kind == reading.SNAPSHOT), None)
