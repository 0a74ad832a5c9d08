"""Where a decision reads what is taken, and reserves: in the database, or in thought."""

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
    """What a decision begins with: the blocks that its job may use; by hotkey, the balances and the ongoing jobs."""

    window: Window
    balances: dict[str, Balance]
    ongoing: dict[str, Jobs]
    in_force: InForce


@dataclass(frozen=True, slots=True)
class Reserved:
    """A miner's blocks, reserved. Without a `reservation_id` they are so in thought only."""

    miner: Miner
    blocks: list[int]
    reservation_id: int | None


Answer = tuple[Candidate, Reserved | Verdict]
"""The candidate that was asked, and what it answered."""

AT_ONCE = 8
"""So many accounts are tried in one statement, if the favourite is locked: other routers rank alike."""


SHORTEST_WAIT = 0.001
"""Seconds; what is over sooner is no wait for others, but the way to a database nearby and back."""

READING_LASTS = 1.0
"""So many seconds after it was read a reservation may be made as of that moment, and so expire sooner by as much."""


class Known(NamedTuple):
    """What decides a reservation with a locked account: the moment, the blocks, its balance, jobs and expired holds."""

    at: dt.datetime
    window: Window
    balance: Balance
    ongoing: int
    expired: Expired


class Reserver(Protocol):
    """What a decision needs to do, beyond arithmetic."""

    def reserve(
        self, candidates: Sequence[Candidate], question: Decision, window: Window, *, wait: bool
    ) -> Answer | None:
        """Reserve with the first candidate whose account can be had, or say why it can't take the job.

        Those who stood before the one that gets the job are PASSED_OVER. None: others have all of them locked, or, with
        `wait`, the first stayed so for too long.
        """


class Book(Reserver, Protocol):
    """What it needs to know as well."""

    def read(self, executor_class: str, now: dt.datetime) -> Seen:
        """Return what there is to see of a class at `now`."""


@dataclass(slots=True)
class LiveBook:
    """The database. It decides again under the account's lock: what the candidate was seen to have may be gone.

    A reservation is made at the moment by which it was decided: of the reading, or, if that does not hold any more, of
    the lock; see `_as_read`. The clock says which, unless it is `pinned`. In a reservation's own transaction `claim` is
    told of it, and `record` of who got it in answer to what; either may raise to undo it. `patience` are the seconds
    left to wait for locks, of all candidates together. `waited` are the seconds waited so far, `waits` how often, and
    `skipped` how many candidates were passed over because others had locked or just changed their accounts. `entries`
    and `expired` are what was read at the moment `read_at`. A monotonic clock says how long that is `good_until`;
    whoever has waited since reads again.
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
            if not wait:  # not an account's lock, which was not waited for: SQLite's only one, or one of the claim's
                raise
            self.patience = 0.0
            return None

    def _reserve(
        self, candidates: Sequence[Candidate], question: Decision, window: Window, patience: float
    ) -> Answer | None:
        job, begun = question.job, time.monotonic()
        with ledger_transaction(durable=True):
            if connection.vendor == "sqlite":  # to begin is to wait for its only lock
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
        """Return what was read of a locked account, or None if that does not hold any more.

        As long as its version is the same, the account is as it was read, reservations and all. So is what was ongoing
        there at that moment, because that was read later: a job stops being held only by a change of the version, and
        by then its receipt, if any, was there. What started since without being held, because its hold had expired, is
        ongoing too; nobody who decides by that moment could know it, and whoever waited for a lock must.
        """
        same = account.version == self.entries[candidate.hotkey].version
        if self.read_at is None or not same or time.monotonic() > self.good_until:
            return None
        expired = self.expired.get(candidate.hotkey, {})
        return Known(self.read_at, window, candidate.standing.balance, candidate.ongoing, expired)

    def _read_again(self, account: Account, now: dt.datetime, window: Window) -> Known:
        """Return what there is to know of a locked account by the clock as it is under the lock.

        If the chain has changed, its blocks are read again: some may have been taken back.
        """
        now = self._clock(now)
        occupied = occupation(account, now)
        account.miner = occupied.miner
        if occupied.chain_version != window.version:
            window = usable_blocks(None)
        return Known(now, window, account.balance, len(occupied.jobs), occupied.expired)

    def _clock(self, now: dt.datetime) -> dt.datetime:
        """Return what time it is: never before `now`, when the decision began."""
        return self.pinned or max(now, timezone.now())

    def _lock_first(self, candidates: Sequence[Candidate], job: Job, patience: float) -> Account | None:
        """Lock the first account that nobody else has; with `patience`, wait so long for the first of all.

        Among equally reliable ones those that have changed come last: their order, by allowance, is not known any more.
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
        """Yield the accounts to try together, at which versions; the favourite alone, because that is quicker."""
        equal = [c.hotkey for c in candidates[: 1 + AT_ONCE] if c.score == candidates[0].score]
        if len(equal) > 1:
            for some in (equal[:1], equal[1:]):
                yield {hotkey: self.entries[hotkey].version for hotkey in some}
        yield {candidates[0].hotkey: None}
        for i in range(1, len(candidates), AT_ONCE):
            yield dict.fromkeys(c.hotkey for c in candidates[i : i + AT_ONCE])


class Assumed(NamedTuple):
    """A reservation in thought; its blocks are `bits` that count from `base`."""

    base: int
    bits: int
    job: str
    expires_at: dt.datetime


@dataclass(slots=True)
class DryBook:
    """The database as it would be after what was assumed so far, by class and miner. Writes and locks nothing."""

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
    """Return the verdict on a miner whose ongoing jobs take all its executors; None if one is idle."""
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
