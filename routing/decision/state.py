"""What is known of a class after a reading, kept miner by miner, so that the next reading changes little of it."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from allowance.interface import Balance, Chain, Entry, Expired, Hold, Standing, Window, ledger, reading
from receipts.interface import Jobs
from routing.decision.board import NO_BOARD, Board, Line

LONG_AGO = dt.datetime.min.replace(tzinfo=dt.UTC)
FAR_AHEAD = dt.datetime.max.replace(tzinfo=dt.UTC)


class Row(NamedTuple):
    """A miner in a class. The row is right from `since` to `until`, unless its account or its jobs change.

    `entry` is the account as stored. In the `balance` the blocks of `expired` reservations are free; `expired` has
    their blocks by id. `ongoing` has the uuids of the ongoing jobs and the ids of the live reservations without a job.
    """

    entry: Entry
    balance: Balance
    expired: Expired
    ongoing: set[str | int]
    since: dt.datetime
    until: dt.datetime

    def line(self, standing: Standing) -> Line:
        """Return the line of a registered miner on the board."""
        return Line(standing, self.balance.is_reachable, len(self.ongoing))


@dataclass(frozen=True, slots=True)
class State:
    """What is known of a class after a reading. It never changes: the next reading makes another one from it.

    The `rows` by hotkey, and the `board` of those that are registered, are right at the time of the reading. A reading
    returns the rows of the transactions from number `since` on; 0 means all rows. `server` is the start time of the
    database server. The number is valid only on a server with this start time. Jobs that ended before `floor` are not
    known. After `until`, by the monotonic clock, the state is forgotten. The standings on the board leave out the
    `unused` oldest blocks.
    """

    chain: Chain = reading.NO_CHAIN
    entries: Mapping[str, Entry] = field(default_factory=dict)
    jobs: Jobs = field(default_factory=Jobs)
    rows: Mapping[str, Row] = field(default_factory=dict)
    board: Board = NO_BOARD
    since: int = 0
    server: dt.datetime = LONG_AGO
    floor: dt.datetime = LONG_AGO
    until: float = -math.inf
    unused: int = 0

    @property
    def window(self) -> Window:
        """The blocks that pay for jobs."""
        return self.chain.window.without_oldest(self.unused)

    def leaving(self, unused: int) -> State:
        """Return the state with another number of unused blocks. `at` then makes its board anew."""
        return self if unused == self.unused else replace(self, unused=unused, board=NO_BOARD)

    def at(self, now: dt.datetime, changed: Set[str]) -> State:
        """Return the state with rows and board as they are at `now`. Only `changed` miners have changed."""
        known = changed & self.entries.keys()
        over = {hotkey for hotkey, row in self.rows.items() if not row.since <= now < row.until}
        is_new = self.board is NO_BOARD
        missing = self.entries.keys() - self.rows.keys() if is_new else set()
        anew = {hotkey: self._row(self.entries[hotkey], now) for hotkey in known | over | missing}
        if not anew and not is_new:
            return self
        rows = {**self.rows, **anew}
        lines = self._lines(rows.values() if is_new else anew.values())
        return replace(self, rows=rows, board=Board.of(lines) if is_new else self.board.after(lines))

    def with_chain(self, chain: Chain) -> State:
        """Return the state at another version of the chain, without the accounts that were deleted since."""
        entries = {
            hotkey: reading.moved(entry, chain.miners[hotkey])
            for hotkey, entry in self.entries.items()
            if hotkey in chain.miners
        }
        rows = {hotkey: row for hotkey, row in self.rows.items() if entries.get(hotkey) is row.entry}
        return replace(self, chain=chain, entries=entries, rows=rows, board=NO_BOARD)

    def _row(self, entry: Entry, now: dt.datetime) -> Row:
        balance, expired = reading.free_expired(entry, now)
        return Row(entry, balance, expired, self._ongoing(entry, now), *self._lasting(entry, now))

    def _lines(self, rows: Iterable[Row]) -> list[Line]:
        """Return the lines of the registered miners of some rows. An unchanged balance keeps its standing."""
        found, unknown = [], []
        for row in rows:
            before = self.board.line(row.balance.hotkey)
            if before and before.standing.balance == row.balance:
                found.append(row.line(before.standing))
            elif row.balance.registered:
                unknown.append(row)
        standings = ledger.survey(self.window, [row.balance for row in unknown])
        return found + [row.line(standing) for row, standing in zip(unknown, standings, strict=True)]

    def _ongoing(self, entry: Entry, now: dt.datetime) -> set[str | int]:
        found: set[str | int] = {*self.jobs.running(entry.balance.hotkey, now)}
        for hold in entry.holds:
            if hold.expires_at > now and not (hold.job and self.jobs.is_finished(hold.job)):
                found.add(hold.job or hold.pk)
        return found

    def _lasting(self, entry: Entry, now: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
        """Return the times between which a miner's row changes only if the database changes."""
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
