"""The books. A decision reads its input from a book and reserves in it: in the database, or only in memory."""

from __future__ import annotations

import datetime as dt
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol
from uuid import UUID

from django.db import connection
from django.utils import timezone

from allowance.interface import (
    RESERVATION_MARGIN,
    Account,
    Balance,
    Entry,
    Expired,
    LockTimeout,
    Miner,
    Reservation,
    Window,
    ledger,
    ledger_transaction,
    lock_account,
    lock_timeout,
    reading,
    reservations,
)
from allowance.interface import window as usable_blocks
from routing.decision.in_force import InForce
from routing.decision.model import NO_ADDRESS, PASSED_OVER, Candidate, Decision, Gate, Job, Verdict
from routing.decision.ongoing import Jobs, as_text, observe, occupation


class Seen(NamedTuple):
    """The input of a decision: the usable blocks, the balances and ongoing jobs by hotkey, and what is in force."""

    window: Window
    balances: dict[str, Balance]
    ongoing: dict[str, Jobs]
    in_force: InForce


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

READING_LASTS = 1.0
"""Maximum age (s) of a reading. A reservation made from it is dated to the reading, so it expires earlier."""


class Known(NamedTuple):
    """The input of a reservation with a locked account.

    `at` is the time of the input, `window` the usable blocks, `ongoing` the number of ongoing jobs. `balance` and
    `expired` are the account's balance and its expired reservations.
    """

    at: dt.datetime
    window: Window
    balance: Balance
    ongoing: int
    expired: Expired


class Reserver(Protocol):
    """The interface through which a decision reserves."""

    def reserve(
        self, candidates: Sequence[Candidate], question: Decision, window: Window, *, wait: bool
    ) -> Answer | None:
        """Reserve with the first candidate whose account is not locked, or return the verdict that rejects it.

        If this candidate gets the job, the candidates before it become PASSED_OVER. With `wait`, wait for the account
        of the first candidate instead of trying the others. Return None if the accounts that were tried stay locked.
        """


class Book(Reserver, Protocol):
    """A reserver that also reads the input of a decision."""

    def read(self, executor_class: str, now: dt.datetime) -> Seen:
        """Return the input of a decision on a job of a class at `now`."""


@dataclass(slots=True)
class LiveBook:
    """The book of live picks: the database.

    It decides again under the lock of the account, because the account may have changed since it was read. A
    reservation is dated to the reading. If the reading is no longer valid (see `_as_read`), the reservation is dated to
    the time under the lock. The time comes from the clock unless it is `pinned`.

    `claim` and `record` are called in the transaction of a reservation: `claim` with the reservation, `record` with the
    question, the candidate and the reservation. Both may raise to roll the reservation back.

    `patience` is the time (s) left to wait for locks, for all candidates together. `waited` is the time (s) waited so
    far and `waits` the number of waits. `skipped` counts how often a candidate was passed over because other
    transactions had locked or just changed its account. `entries` and `expired` were read at `read_at` and are valid
    until `good_until`, by the monotonic clock. After a wait for a lock the account is read again.
    """

    pinned: dt.datetime | None = None
    claim: Callable[[Reservation], None] | None = None
    record: Callable[[Decision, Candidate, Reservation], None] | None = None
    patience: float = field(default_factory=lock_timeout)
    waited: float = 0.0
    waits: int = 0
    skipped: int = 0
    entries: Mapping[str, Entry] = field(default_factory=dict)
    expired: Mapping[str, Expired] = field(default_factory=dict)
    read_at: dt.datetime | None = None
    good_until: float = -math.inf

    def read(self, executor_class: str, now: dt.datetime) -> Seen:
        usable, balances, self.entries, holds, self.expired = reading.read(executor_class, now)
        self.read_at = now = self._clock(now)
        self.good_until = time.monotonic() + READING_LASTS
        return Seen(usable, balances, *observe(executor_class if balances else "", now, holds))

    def reserve(
        self, candidates: Sequence[Candidate], question: Decision, window: Window, *, wait: bool
    ) -> Answer | None:
        begun = time.monotonic()
        try:
            return self._reserve(candidates, question, window, self.patience if wait else 0.0)
        except LockTimeout:
            if connection.vendor == "sqlite":
                self._note_wait(time.monotonic() - begun)
            if not wait:  # the lock is SQLite's only one, or one that `claim` takes
                raise
            self.patience = 0.0
            return None

    def _reserve(
        self, candidates: Sequence[Candidate], question: Decision, window: Window, patience: float
    ) -> Answer | None:
        job, begun = question.job, time.monotonic()
        with ledger_transaction(durable=True):
            if connection.vendor == "sqlite":  # BEGIN waits for SQLite's only lock
                self._note_wait(time.monotonic() - begun)
            account = self._lock_first(candidates, job, patience)
            if account is None:
                self.skipped += len(candidates)
                return None
            place = next(i for i, c in enumerate(candidates) if c.hotkey == account.miner_id)
            self.skipped += place
            candidate = candidates[place]
            known = self._as_read(candidate, account, window) or self._read_again(account, question.at, window)
            now, window, balance, jobs, expired = known
            balance = reservations.tidy(account, balance, expired)
            blocks = admit(balance, jobs, job, window)
            if isinstance(blocks, Verdict):
                return candidate, blocks
            reservation = reservations.hold(
                account,
                balance,
                blocks,
                seconds=job.seconds,
                job_uuid=UUID(job.uuid),
                now=now,
                newest=window.newest or 0,
            )
            for better in candidates[:place]:
                better.verdict = PASSED_OVER
            if self.claim:
                self.claim(reservation)
            if self.record:
                self.record(question, candidate, reservation)
            return candidate, Reserved(balance.miner, blocks, reservation.pk)

    def _as_read(self, candidate: Candidate, account: Account, window: Window) -> Known | None:
        """Return what was read of a locked account, or None if the reading is no longer valid.

        While the account's version is unchanged, it and its reservations are as they were read. The ongoing jobs are
        right too: a job has a live reservation, which was read with the account, or receipts, which were read after it.
        The end of a live reservation gives the account a new version, and by then the receipt of the job, if any, is
        stored. A job whose reservation had expired may have started since the reading. A decision dated to the reading
        can't know that job. A decision that waited for a lock must know it, so it reads again.
        """
        same = account.version == self.entries[candidate.hotkey].version
        if self.read_at is None or not same or time.monotonic() > self.good_until:
            return None
        expired = self.expired.get(candidate.hotkey, {})
        return Known(self.read_at, window, candidate.standing.balance, candidate.ongoing, expired)

    def _read_again(self, account: Account, now: dt.datetime, window: Window) -> Known:
        """Read a locked account again, and date the result to the time under the lock.

        If the version of the chain has changed, read the usable blocks again too: some may have been removed.
        """
        now = self._clock(now)
        occupied = occupation(account, now)
        account.miner = occupied.miner
        if occupied.chain_version != window.version:
            window = usable_blocks(None)
        return Known(now, window, account.balance, len(occupied.jobs), occupied.expired)

    def _clock(self, now: dt.datetime) -> dt.datetime:
        """Return the pinned time, or else the later of the current time and `now`, the time of the decision."""
        return self.pinned or max(now, timezone.now())

    def _lock_first(self, candidates: Sequence[Candidate], job: Job, patience: float) -> Account | None:
        """Lock the first account that other transactions have not locked.

        With `patience`, wait that long (s) for the account of the first candidate, and try no other. Without it, of the
        first 1 + AT_ONCE candidates, those as reliable as the first are tried before all others if their accounts have
        not changed since the reading. A change makes the order by allowance uncertain.
        """
        if patience:
            begun = time.monotonic()
            try:
                return lock_account(wait=patience, miner=candidates[0].hotkey, executor_class=job.executor_class)
            finally:
                waited = time.monotonic() - begun
                self.patience = max(0.0, patience - waited)
                self.good_until = -math.inf
                self._note_wait(waited)
        for asked in self._attempts(candidates):
            if account := lock_account(wait=0, first_of=asked, executor_class=job.executor_class):
                return account
        return None

    def _note_wait(self, seconds: float) -> None:
        if seconds > SHORTEST_WAIT:
            self.waited += seconds
            self.waits += 1

    def _attempts(self, candidates: Sequence[Candidate]) -> Iterator[dict[str, int | None]]:
        """Yield the accounts that one query tries, by hotkey, with the version that each must have (None: any).

        The account of the first candidate has a query of its own, because that is faster.
        """
        equal = [c.hotkey for c in candidates[: 1 + AT_ONCE] if c.score == candidates[0].score]
        if len(equal) > 1:
            for some in (equal[:1], equal[1:]):
                yield {hotkey: self.entries[hotkey].version for hotkey in some}
        yield {candidates[0].hotkey: None}
        for i in range(1, len(candidates), AT_ONCE):
            yield dict.fromkeys(c.hotkey for c in candidates[i : i + AT_ONCE])


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
        seen = LiveBook(pinned=now).read(executor_class, now)
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

    def reserve(
        self, candidates: Sequence[Candidate], question: Decision, window: Window, *, wait: bool
    ) -> Answer | None:
        candidate = candidates[0]
        job, balance = question.job, candidate.standing.balance
        blocks = admit(balance, candidate.ongoing, job, window)
        if isinstance(blocks, Verdict):
            return candidate, blocks
        expires_at = question.at + dt.timedelta(seconds=job.seconds) + RESERVATION_MARGIN
        bits = ledger.to_bits(blocks, balance.base)
        assumed = Assumed(balance.base, bits, as_text(UUID(job.uuid)), expires_at)
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
