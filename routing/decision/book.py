"""The books. A decision reads its input from a book and reserves in it: in the database, or only in memory."""

from __future__ import annotations

import datetime as dt
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import ClassVar, Protocol
from uuid import UUID

from django.db.models import Case, IntegerField, Model, Q, QuerySet, When

from allowance.interface import (
    RESERVATION_MARGIN,
    Account,
    Hold,
    LockTimeout,
    Reservation,
    ledger,
    ledger_statement,
    ledger_transaction,
    lock_account,
    lock_timeout,
    reservations,
)
from allowance.plumbing.compiled import Compiled, parameter
from allowance.plumbing.database import database, is_in_transaction
from routing.decision import reading
from routing.decision.model import NO_ADDRESS, PASSED_OVER, Candidate, Decision, Gate, Job, Verdict
from routing.decision.ranking import Ranking, busy
from routing.decision.reading import Seen
from routing.decision.state import Row, State

AT_ONCE = 8
"""The maximum number of accounts that one statement tries to lock.

Before its last reading a decision tries no others. Other routers try the same accounts first. If all of them are
locked, a new reading helps more than further tries.
"""


SHORTEST_WAIT = 0.001
"""Minimum time (s) of a wait that counts. A shorter one is network latency, not lock contention."""

READINGS = 3
"""The number of readings from which a decision is made before it waits for locks."""

READING_LASTS = 1.0
"""Maximum age (s) of a reading to reserve from. A reservation counts its time from the reading: age shortens it."""


class Outdated(Exception):
    """The signal to decide again from a new reading: accounts are locked or have changed, or time has passed."""


class Reserver(Protocol):
    """The interface through which a decision reserves."""

    def reserve(self, ranking: Ranking, equals: Sequence[int]) -> Decision | Ranking:
        """Reserve with the first of the `equals` that can take the job, and return the decision.

        The `equals` are equally reliable. If there is no reservation, return the ranking with more verdicts.
        PASSED_OVER means that others have locked, changed or removed the account. Raises Outdated if the decision
        should be made again.
        """


class Book(Reserver, Protocol):
    """A reserver that also reads the input of a decision."""

    def read(self, executor_class: str, now: dt.datetime | None) -> Seen:
        """Return the input of a decision on a job of a class, at the current time or at `now`."""


def _first_of_equals() -> QuerySet[Account, tuple[int]]:
    """Return the query that locks the first of AT_ONCE accounts that is not locked and has the version given for it."""
    asked = [
        (parameter(Account, "id", f"pk_{i}"), parameter(Account, "version", f"version_{i}")) for i in range(AT_ONCE)
    ]
    any_of = reduce(or_, (Q(pk=pk, version=version) for pk, version in asked))
    order = Case(*(When(pk=pk, then=place) for place, (pk, _) in enumerate(asked)), output_field=IntegerField())
    return Account.objects.filter(any_of).locked(skip=True).order_by(order).values_list("pk")[:1]


FIRST_OF_EQUALS = Compiled(_first_of_equals)


@dataclass(slots=True)
class LiveBook:
    """The book of live picks: the database.

    It reserves from what was read, if the account still has the version that was read. While an account's version is
    unchanged, it and its reservations are as they were read. The ongoing jobs are right too: the same reading read the
    account, its live reservations and the receipts. The end of a live reservation gives the account a new version, and
    by then the receipt of the job, if any, is stored. Two kinds of jobs may be missed: a job that started after the
    reading, when its reservation had expired, and a job whose receipt from another validator was stored after the
    reading. A reading is used for READING_LASTS at most.

    If the accounts of the best candidates are locked or have changed, the decision is made again from a new reading.
    Before it waits for locks, it is made from READINGS readings. With the last one, the book tries all equally reliable
    candidates. Then it waits for their locks, and decides by a reading under the lock. If the candidate that it waited
    for can't take the job, the decision is made again: others had time to change the ranking. The patience bounds this.

    `record` is called with the decision, the winner and the reservation, and returns rows that are stored with the
    reservation. `claim` is called with the stored reservation in its transaction, and may raise to roll it back.
    `end_turn` is called before a wait for locks.

    `patience` is the time (s) left to wait for locks, for all candidates together. `waited` is the time (s) waited so
    far and `waits` the number of waits. `skipped` counts how often a candidate was passed over because other
    transactions had locked or just changed its account. `seen` is the last reading. The book reserves from it until
    `good_until`, by the monotonic clock.

    `crowded` is a hint: a recent pick of this process had a choice, and found its first account locked or changed. If
    it is true, the book first looks for an account that is not locked. This saves a statement.
    """

    crowded: ClassVar[bool] = False

    claim: Callable[[Reservation], None] | None = None
    record: Callable[[Decision, Candidate, Reservation], Iterable[Model]] | None = None
    end_turn: Callable[[], None] = lambda: None
    patience: float = field(default_factory=lock_timeout)
    waited: float = 0.0
    waits: int = 0
    skipped: int = 0
    readings: int = 0
    now: dt.datetime | None = None
    seen: Seen | None = None
    good_until: float = -math.inf

    def read(self, executor_class: str, now: dt.datetime | None) -> Seen:
        self.good_until = time.monotonic() + READING_LASTS
        self.now, self.seen = now, reading.read(executor_class, now)
        self.readings += 1
        return self.seen

    def reserve(self, ranking: Ranking, equals: Sequence[int]) -> Decision | Ranking:
        asked = equals[:AT_ONCE] if self.readings < READINGS else equals
        for first in range(0, len(asked), AT_ONCE):
            if self.seen and time.monotonic() <= self.good_until:
                rest = _pass_over(ranking, asked[:first])
                if answer := self._reserve_as_read(self.seen, rest, asked[first : first + AT_ONCE]):
                    return answer
        if self.readings < READINGS:
            raise Outdated
        self.end_turn()
        waits = self.waits
        for place, slot in enumerate(equals):
            answer = self._reserve_locked(_pass_over(ranking, equals[:place]), slot)
            if isinstance(answer, Decision) or (answer and self.waits == waits):
                return answer
            if answer:
                break
        if self.waits > waits:  # others had time to change the ranking
            raise Outdated
        return _pass_over(ranking, equals)

    def _reserve_as_read(self, seen: Seen, ranking: Ranking, equals: Sequence[int]) -> Decision | Ranking | None:
        """Reserve with the first candidate whose account is not locked and has not changed, without a wait."""
        tried = 0
        if not LiveBook.crowded:
            row = seen.state.rows.get(ranking.hotkey(equals[0]))
            with self._transaction(alone=not self.claim and not (row and row.expired)):
                if answer := self._hold(seen, ranking, equals[0]):
                    return answer
            tried, LiveBook.crowded = 1, len(equals) > 1
        if tried < len(equals):
            with self._transaction():
                place = self._lock_one(seen, ranking, equals[tried:])
                if place is not None:
                    skipped = tried + place
                    LiveBook.crowded = skipped > 0
                    self.skipped += skipped
                    return self._hold(seen, _pass_over(ranking, equals[:skipped]), equals[skipped])
        self.skipped += len(equals)
        return None

    def _reserve_locked(self, ranking: Ranking, slot: int) -> Decision | Ranking | None:
        """Wait for the lock of a candidate's account, read again, and reserve.

        Return None if the account is missing or changed, or stays locked for longer than the patience.
        """
        begun, executor_class = time.monotonic(), ranking.question.job.executor_class
        try:
            with self._transaction():
                account = lock_account(wait=self.patience, miner=ranking.hotkey(slot), executor_class=executor_class)
                if account is None:
                    self.skipped += 1
                    return None
                waited = time.monotonic() - begun
                self.patience = max(0.0, self.patience - waited)
                self._note_wait(waited)
                seen = reading.read(executor_class, self.now, has_written=False)
                entry = seen.state.entries.get(account.miner_id)
                if entry and entry.version != account.version:  # SQL drew a new version, but did not write `changed`
                    reading.forget()
                    seen = reading.read(executor_class, self.now, has_written=False)
                return self._hold(seen, ranking, slot)
        except LockTimeout:
            if database().vendor == "sqlite" or not self.patience:
                raise
            self._note_wait(time.monotonic() - begun)
            self.patience = 0.0
            return None

    def _hold(self, seen: Seen, ranking: Ranking, slot: int) -> Decision | Ranking | None:
        """Reserve with a candidate as it was seen. Return None if its account is locked or has changed since."""
        seen = _as_asked(seen, ranking)
        row, job = seen.state.rows.get(ranking.hotkey(slot)), ranking.question.job
        if row is None:  # its account was forgotten
            return None
        blocks = admit(seen.state, row, job)
        if isinstance(blocks, Verdict):
            return ranking.after({slot: blocks})
        account = Account(
            pk=row.entry.pk,
            miner_id=row.balance.hotkey,
            executor_class=job.executor_class,
            version=row.entry.version,
        )
        reservation = reservations.draft(account, blocks, seconds=job.seconds, job_uuid=UUID(job.uuid), now=seen.at)
        decision = ranking.routed(slot, row.balance.miner, blocks, reservation.pk)
        rows = self.record(decision, ranking.candidate(slot), reservation) if self.record else ()
        newest = seen.window.newest or 0
        if not reservations.hold(reservation, row.balance, *rows, expired=row.expired, newest=newest):
            return None
        if self.claim:
            self.claim(reservation)
        return decision

    def _lock_one(self, seen: Seen, ranking: Ranking, slots: Sequence[int]) -> int | None:
        """Lock the account of the first candidate that is not locked and has not changed. Return its place."""
        entries = [seen.state.entries[ranking.hotkey(slot)] for slot in slots]
        asked = [*entries, *[entries[-1]] * (AT_ONCE - len(entries))]
        values = {f"pk_{i}": entry.pk for i, entry in enumerate(asked)}
        versions = {f"version_{i}": entry.version for i, entry in enumerate(asked)}
        found = FIRST_OF_EQUALS.fetch(**values, **versions)
        return [entry.pk for entry in entries].index(found[0][0]) if found else None

    @contextmanager
    def _transaction(self, *, alone: bool = False) -> Iterator[None]:
        """Run a transaction. A statement that is `alone` needs none on PostgreSQL."""
        connection = database()
        if alone and connection.vendor == "postgresql" and not is_in_transaction(connection):
            with ledger_statement():
                yield
            return
        begun = time.monotonic()
        with ledger_transaction(durable=True):
            if connection.vendor == "sqlite":  # BEGIN waits for SQLite's only lock
                self._note_wait(time.monotonic() - begun)
            yield

    def _note_wait(self, seconds: float) -> None:
        if seconds > SHORTEST_WAIT:
            self.waited += seconds
            self.waits += 1


def _pass_over(ranking: Ranking, slots: Sequence[int]) -> Ranking:
    return ranking.after(dict.fromkeys(slots, PASSED_OVER))


def _as_asked(seen: Seen, ranking: Ranking) -> Seen:
    """Return the input with the unused blocks of the policy that the decision is made by.

    It may be a what-if policy, or the settings may have changed between two readings.
    """
    policy = ranking.question.policy
    return seen.leaving(policy.unused_blocks) if policy else seen


@dataclass(slots=True)
class DryBook:
    """The book of dry runs: the database, and the reservations `assumed` in memory. It writes and locks nothing.

    `assumed` has them by class and hotkey. `seen` is the last reading.
    """

    seen: Seen | None = None
    assumed: dict[tuple[str, str], list[Hold]] = field(default_factory=dict)

    def read(self, executor_class: str, now: dt.datetime | None) -> Seen:
        seen = reading.read(executor_class, now)
        assumed = {hotkey: holds for (of_class, hotkey), holds in self.assumed.items() if of_class == executor_class}
        self.seen = seen._replace(state=seen.state.holding(assumed, seen.at)) if assumed else seen
        return self.seen

    def reserve(self, ranking: Ranking, equals: Sequence[int]) -> Decision | Ranking:
        if self.seen is None:
            raise RuntimeError("Call read before reserve.")
        slot, job, hotkey = equals[0], ranking.question.job, ranking.hotkey(equals[0])
        state = _as_asked(self.seen, ranking).state
        row = state.rows[hotkey]
        blocks = admit(state, row, job)
        if isinstance(blocks, Verdict):
            return ranking.after({slot: blocks})
        expires_at = self.seen.at + dt.timedelta(seconds=job.seconds) + RESERVATION_MARGIN
        hold = Hold(0, reading.as_text(UUID(job.uuid)), expires_at, blocks, 0)
        self.assumed.setdefault((job.executor_class, hotkey), []).append(hold)
        return ranking.routed(slot, row.balance.miner, blocks, None)


def admit(state: State, row: Row, job: Job) -> list[int] | Verdict:
    """Return the blocks that pay for the job, or the verdict on a miner that can't take it."""
    balance, ongoing = row.balance, len(row.ongoing)
    if not balance.is_reachable:
        return NO_ADDRESS
    if ongoing >= balance.executors:
        return busy(ongoing, balance.executors)
    line = state.board.line(balance.hotkey)  # only registered miners have one
    blocks = ledger.take(state.window, balance, ledger.to_ns(job.seconds)) if line else None
    if blocks is None:
        return Verdict(Gate.RESERVATION, job.seconds, ledger.to_seconds(line.standing.free if line else 0))
    return blocks
