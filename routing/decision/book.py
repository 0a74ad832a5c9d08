"""The books. A decision reads its input from a book and reserves in it: in the database, or only in memory."""

from __future__ import annotations

import datetime as dt
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import NamedTuple, Protocol
from uuid import UUID

from django.db import DEFAULT_DB_ALIAS, connection
from django.db.models import Case, IntegerField, Q, QuerySet, When
from django.utils import timezone

from allowance.interface import (
    RESERVATION_MARGIN,
    Account,
    Balance,
    LockTimeout,
    Miner,
    Reservation,
    Window,
    ledger,
    ledger_transaction,
    lock_account,
    lock_timeout,
    reservations,
)
from allowance.plumbing.compiled import Compiled, parameter
from routing.decision import reading
from routing.decision.model import NO_ADDRESS, PASSED_OVER, Candidate, Decision, Gate, Job, Verdict
from routing.decision.reading import Seen


@dataclass(frozen=True, slots=True)
class Reserved:
    """The reserved blocks of a miner. If `reservation_id` is None, nothing is stored in the database."""

    miner: Miner
    blocks: list[int]
    reservation_id: int | None


Answer = tuple[Candidate, Reserved | Verdict]
"""The candidate that was tried, and either its reserved blocks or the verdict that says why it can't take the job."""

AT_ONCE = 8
"""The maximum number of accounts that one query tries to lock after the account of the first candidate.

Other routers rank the same way, so the accounts of the next candidates may be locked too.
"""


SHORTEST_WAIT = 0.001
"""Seconds. Waits shorter than this are network latency, not lock contention."""

READINGS = 3
"""How often a decision is made from a new reading before it waits for locks."""

READING_LASTS = 1.0
"""Maximum age (s) of a reading. A reservation made from it is dated to the reading, so it expires earlier."""


class Outdated(Exception):
    """The accounts of the best candidates are locked or have changed since they were read. Read again, and decide."""


class Reserver(Protocol):
    """The interface through which a decision reserves."""

    def reserve(self, candidates: Sequence[Candidate], question: Decision, window: Window) -> Answer | None:
        """Reserve with the first of equally reliable candidates, or return the verdict that rejects it.

        Candidates before it become PASSED_OVER: others have locked their accounts. Return None if that is so for all.
        Raises Outdated if the decision should be made again.
        """


class Book(Reserver, Protocol):
    """A reserver that also reads the input of a decision."""

    def read(self, executor_class: str, now: dt.datetime) -> Seen:
        """Return the input of a decision on a job of a class at `now`."""


def _first_of_equals() -> QuerySet[Account, tuple[int]]:
    """Return the first of AT_ONCE accounts that still have their versions and are not locked. It is locked then."""
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
    unchanged, it and its reservations are as they were read. The ongoing jobs are right too: a job has a live
    reservation, which was read with the account, or receipts, which were read with it. The end of a live reservation
    gives the account a new version, and by then the receipt of the job, if any, is stored. A job whose reservation had
    expired may have started since the reading: a reservation is dated to the reading, which can't know that job.

    If the accounts of the best candidates are locked or have changed, the decision is made again from a new reading, at
    most READINGS times. Then the book waits for their locks and decides by a reading under the lock.

    The time comes from the clock unless it is `pinned`. `claim` and `record` are called in the transaction of a
    reservation: `claim` with the reservation, `record` with the question, the candidate and the reservation. Both may
    raise to roll the reservation back.

    `patience` is the time (s) left to wait for locks, for all candidates together. `waited` is the time (s) waited so
    far and `waits` the number of waits. `skipped` counts how often a candidate was passed over because other
    transactions had locked or just changed its account. `seen` was read last and is valid until `good_until`, by the
    monotonic clock.
    """

    pinned: dt.datetime | None = None
    claim: Callable[[Reservation], None] | None = None
    record: Callable[[Decision, Candidate, Reservation], None] | None = None
    patience: float = field(default_factory=lock_timeout)
    waited: float = 0.0
    waits: int = 0
    skipped: int = 0
    readings: int = 0
    seen: Seen | None = None
    good_until: float = -math.inf

    def read(self, executor_class: str, now: dt.datetime) -> Seen:
        self.seen = reading.read(executor_class, now, self._clock)
        self.readings += 1
        self.good_until = time.monotonic() + READING_LASTS
        return self.seen

    def reserve(self, candidates: Sequence[Candidate], question: Decision, window: Window) -> Answer | None:
        asked = candidates[: 1 + AT_ONCE]
        seen = self.seen if time.monotonic() <= self.good_until else None
        if seen and (answer := self._reserve_as_read(seen, asked, question)):
            return answer
        if self.readings < READINGS:
            raise Outdated
        for place, candidate in enumerate(candidates):
            answer = self._reserve_locked(candidate, question)
            if answer is not None:
                _pass_over(candidates[:place])
                return answer
        return None

    def _reserve_as_read(self, seen: Seen, asked: Sequence[Candidate], question: Decision) -> Answer | None:
        """Reserve with the first candidate whose account is not locked and has not changed, without a wait."""
        with self._transaction():
            answer = self._hold(seen, asked[0], question)
            if answer is None and len(asked) > 1 and (place := self._lock_one(seen, asked[1:])) is not None:
                _pass_over(asked[: place + 1])
                answer = self._hold(seen, asked[place + 1], question)
            self.skipped += sum(candidate.verdict is PASSED_OVER for candidate in asked) if answer else len(asked)
            return answer

    def _reserve_locked(self, candidate: Candidate, question: Decision) -> Answer | None:
        """Wait for the lock of a candidate's account, read again, and reserve. Return None after the patience."""
        begun = time.monotonic()
        try:
            with self._transaction():
                account = lock_account(
                    wait=self.patience, miner=candidate.hotkey, executor_class=question.job.executor_class
                )
                if account is None:
                    self.skipped += 1
                    return None
                waited = time.monotonic() - begun
                self.patience = max(0.0, self.patience - waited)
                self._note_wait(waited)
                seen = reading.read(account.executor_class, question.at, self._clock, has_written=False)
                return self._hold(seen, candidate, question)
        except LockTimeout:
            if connection.vendor == "sqlite" or not self.patience:
                raise
            self._note_wait(time.monotonic() - begun)
            self.patience = 0.0
            return None

    def _hold(self, seen: Seen, candidate: Candidate, question: Decision) -> Answer | None:
        """Reserve with a candidate as it was seen. Return None if its account is locked or has changed since."""
        entry = seen.entries.get(candidate.hotkey)
        if entry is None:  # its account was forgotten
            return None
        job, balance = question.job, seen.balances[candidate.hotkey]
        blocks = admit(balance, len(seen.ongoing.get(candidate.hotkey, ())), job, seen.window)
        if isinstance(blocks, Verdict):
            return candidate, blocks
        account = Account(
            pk=entry.pk, miner_id=candidate.hotkey, executor_class=job.executor_class, version=entry.version
        )
        reservation = reservations.hold(
            account,
            balance,
            blocks,
            expired=seen.expired.get(candidate.hotkey, {}),
            seconds=job.seconds,
            job_uuid=UUID(job.uuid),
            now=seen.at,
            newest=seen.window.newest or 0,
        )
        if reservation is None:
            return None
        if self.claim:
            self.claim(reservation)
        if self.record:
            self.record(question, candidate, reservation)
        return candidate, Reserved(balance.miner, blocks, reservation.pk)

    def _lock_one(self, seen: Seen, candidates: Sequence[Candidate]) -> int | None:
        """Lock the account of the first candidate that is not locked and has not changed. Return its place."""
        entries = [seen.entries[candidate.hotkey] for candidate in candidates]
        asked = [*entries, *[entries[-1]] * (AT_ONCE - len(entries))]
        values = {f"pk_{i}": entry.pk for i, entry in enumerate(asked)}
        versions = {f"version_{i}": entry.version for i, entry in enumerate(asked)}
        found = FIRST_OF_EQUALS.fetch(DEFAULT_DB_ALIAS, **values, **versions)
        return [entry.pk for entry in entries].index(found[0][0]) if found else None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        begun = time.monotonic()
        with ledger_transaction(durable=True):
            if connection.vendor == "sqlite":  # BEGIN waits for SQLite's only lock
                self._note_wait(time.monotonic() - begun)
            yield

    def _clock(self, now: dt.datetime) -> dt.datetime:
        """Return the pinned time, or else the later of the current time and `now`, the time of the decision."""
        return self.pinned or max(now, timezone.now())

    def _note_wait(self, seconds: float) -> None:
        if seconds > SHORTEST_WAIT:
            self.waited += seconds
            self.waits += 1


def _pass_over(candidates: Sequence[Candidate]) -> None:
    for candidate in candidates:
        candidate.verdict = PASSED_OVER


class Assumed(NamedTuple):
    """A reservation of a dry run. `bits` is the set of its blocks, which counts from `base`."""

    base: int
    bits: int
    job: str
    expires_at: dt.datetime


@dataclass(slots=True)
class DryBook:
    """The book of dry runs: the database, and the reservations `assumed` in memory. It writes and locks nothing."""

    assumed: defaultdict[tuple[str, str], list[Assumed]] = field(default_factory=lambda: defaultdict(list))

    def read(self, executor_class: str, now: dt.datetime) -> Seen:
        seen = reading.read(executor_class, now)
        for (of_class, miner), assumed in self.assumed.items():
            live = [a for a in assumed if now < a.expires_at] if of_class == executor_class else []
            if live:
                balance = seen.balances[miner]
                held = balance.held
                for a in live:
                    held |= ledger.shifted(a.bits, a.base, balance.base)
                seen.balances[miner] = balance._replace(held=held)
                seen.ongoing.setdefault(miner, set()).update([a.job for a in live])
        return seen

    def reserve(self, candidates: Sequence[Candidate], question: Decision, window: Window) -> Answer | None:
        candidate = candidates[0]
        job, balance = question.job, candidate.standing.balance
        blocks = admit(balance, candidate.ongoing, job, window)
        if isinstance(blocks, Verdict):
            return candidate, blocks
        expires_at = question.at + dt.timedelta(seconds=job.seconds) + RESERVATION_MARGIN
        bits = ledger.to_bits(blocks, balance.base)
        assumed = Assumed(balance.base, bits, reading.as_text(UUID(job.uuid)), expires_at)
        self.assumed[job.executor_class, candidate.hotkey].append(assumed)
        return candidate, Reserved(candidate.miner, blocks, None)


def busy(balance: Balance, ongoing: int) -> Verdict | None:
    """Return the verdict on a miner whose ongoing jobs occupy all its executors, or None if an executor is idle."""
    if ongoing < balance.executors:
        return None
    return Verdict(Gate.EXECUTORS, ongoing + 1, balance.executors)


def admit(balance: Balance, ongoing: int, job: Job, window: Window) -> list[int] | Verdict:
    """Return the blocks that pay for the job, or the verdict on a miner that can't take it."""
    if not balance.is_reachable:
        return NO_ADDRESS
    if verdict := busy(balance, ongoing):
        return verdict
    blocks = ledger.take(window, balance, ledger.to_ns(job.seconds)) if balance.registered else None
    if blocks is None:
        free = ledger.to_seconds(ledger.survey(window, [balance])[0].free) if balance.registered else 0.0
        return Verdict(Gate.RESERVATION, job.seconds, free)
    return blocks
