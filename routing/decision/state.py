"""What is known of a class after a reading, kept miner by miner, so that the next reading changes little of it."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from allowance.interface import Balance, Chain, Entry, Expired, Hold, Standing, ledger, reading
from receipts.interface import Jobs
from routing.decision.board import Board, Line

LONG_AGO = dt.datetime.min.replace(tzinfo=dt.UTC)
FAR_AHEAD = dt.datetime.max.replace(tzinfo=dt.UTC)


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

    def at(self, now: dt.datetime, changed: Set[str] | None = None) -> State:
        """Return the state with rows and board as they are at `now`. Only `changed` miners (None: all) have changed."""
        known = None if changed is None else changed & self.entries.keys()
        if known is None or not known <= self.rows.keys():
            rows = self._rows(self.entries, now)
            lines = [line for row in rows.values() if (line := row.line)]
            return replace(self, rows=rows, board=Board.of(lines))
        over = {hotkey for hotkey, row in self.rows.items() if not row.since <= now < row.until}
        anew = self._rows(over | known, now)
        lines = [line for row in anew.values() if (line := row.line)]
        return replace(self, rows={**self.rows, **anew}, board=self.board.after(lines)) if anew else self

    def with_chain(self, chain: Chain) -> State:
        """Return the state at another version of the chain, without the accounts that were deleted since."""
        entries = {
            hotkey: reading.moved(entry, chain.miners[hotkey])
            for hotkey, entry in self.entries.items()
            if hotkey in chain.miners
        }
        return replace(self, chain=chain, entries=entries, rows={})

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
        since, until = LONG_AGO, FAR_AHEAD
        for instant in (*(hold.expires_at for hold in entry.holds), *self.jobs.instants(entry.balance.hotkey)):
            if instant <= now:
                since = max(since, instant)
            else:
                until = min(until, instant)
        return since, until

    def holding(self, holds: Mapping[str, Iterable[Hold]], now: dt.datetime) -> State:
        """Return the state with more reservations, by hotkey, as it is at `now`."""
        entries = {hotkey: self.entries[hotkey].holding(more) for hotkey, more in holds.items()}
        return replace(self, entries={**self.entries, **entries}).at(now, entries.keys())
