"""Where a decision reads what is taken, and reserves: in the database, or in thought."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from django.db import transaction

from allowance import ledger, reservations, state
from allowance.ledger import Balance, Window
from allowance.locks import lock_account
from allowance.types import HOLD_MARGIN
from routing.ongoing import ongoing_jobs
from routing.types import Candidate, Gate, Job, Verdict


@dataclass(frozen=True, slots=True)
class Reserved:
    """A candidate's blocks, reserved. Without a `reservation_id` they are so in thought only."""

    blocks: list[int]
    reservation_id: int | None


class Book(Protocol):
    """What a decision needs to know and do, beyond arithmetic."""

    def balances(self, executor_class: str, now: dt.datetime) -> list[Balance]:
        """Return the balances of a class at `now`."""

    def ongoing(self, executor_class: str, now: dt.datetime) -> dict[str, set[UUID | int]]:
        """Return the jobs ongoing in a class at `now`, by hotkey."""

    def reserve(
        self, candidate: Candidate, job: Job, window: Window, now: dt.datetime, *, wait: bool
    ) -> Reserved | Verdict | None:
        """Reserve with a candidate, or say why not. None: without `wait`, somebody else holds its lock."""


class LiveBook:
    """The database. It decides again under the account's lock: what the candidate was seen to have may be gone."""

    def balances(self, executor_class: str, now: dt.datetime) -> list[Balance]:
        return state.balances(executor_class, now)

    def ongoing(self, executor_class: str, now: dt.datetime) -> dict[str, set[UUID | int]]:
        return ongoing_jobs(executor_class, now)

    def reserve(
        self, candidate: Candidate, job: Job, window: Window, now: dt.datetime, *, wait: bool
    ) -> Reserved | Verdict | None:
        with transaction.atomic():
            account = lock_account(wait=wait, miner=candidate.hotkey, executor_class=job.executor_class)
            if account is None:
                return None
            balance = reservations.balance_under_lock(account, now)
            jobs = ongoing_jobs(job.executor_class, now, candidate.hotkey)
            blocks = admit(balance, len(jobs.get(candidate.hotkey, ())), job, window)
            if isinstance(blocks, Verdict):
                return blocks
            reservation = reservations.hold(
                account,
                balance,
                blocks,
                seconds=job.seconds,
                job_uuid=UUID(job.uuid),
                now=now,
                newest=window.newest or 0,
            )
            return Reserved(blocks, reservation.pk)


@dataclass(frozen=True, slots=True)
class Assumed:
    """A reservation in thought."""

    miner: str
    executor_class: str
    blocks: list[int]
    job: UUID
    expires_at: dt.datetime


@dataclass(slots=True)
class DryBook:
    """The database as it would be after the reservations assumed so far. Writes and locks nothing."""

    assumed: list[Assumed] = field(default_factory=list)

    def balances(self, executor_class: str, now: dt.datetime) -> list[Balance]:
        found = {b.hotkey: b for b in state.balances(executor_class, now)}
        for a in self._live(executor_class, now):
            found[a.miner] = ledger.hold(found[a.miner], a.blocks)
        return list(found.values())

    def ongoing(self, executor_class: str, now: dt.datetime) -> dict[str, set[UUID | int]]:
        jobs = ongoing_jobs(executor_class, now)
        for a in self._live(executor_class, now):
            jobs[a.miner].add(a.job)
        return jobs

    def reserve(
        self, candidate: Candidate, job: Job, window: Window, now: dt.datetime, *, wait: bool
    ) -> Reserved | Verdict | None:
        blocks = admit(candidate.standing.balance, candidate.ongoing, job, window)
        if isinstance(blocks, Verdict):
            return blocks
        expires_at = now + dt.timedelta(seconds=job.seconds) + HOLD_MARGIN
        self.assumed.append(Assumed(candidate.hotkey, job.executor_class, blocks, UUID(job.uuid), expires_at))
        return Reserved(blocks, None)

    def _live(self, executor_class: str, now: dt.datetime) -> list[Assumed]:
        return [a for a in self.assumed if a.executor_class == executor_class and now < a.expires_at]


def busy(balance: Balance, ongoing: int) -> Verdict | None:
    """Return the verdict on a miner whose ongoing jobs take all its executors; None if one is idle."""
    if ongoing < balance.executors:
        return None
    sentence = f"{ongoing} jobs ongoing on {balance.executors} executors"
    return Verdict(Gate.EXECUTORS, ongoing + 1, balance.executors, sentence)


def admit(balance: Balance, ongoing: int, job: Job, window: Window) -> list[int] | Verdict:
    """Return the blocks that pay for the job, or the verdict on a miner that can't take it."""
    if verdict := busy(balance, ongoing):
        return verdict
    blocks = ledger.take(window, balance, ledger.to_ns(job.seconds)) if balance.registered else None
    if blocks is None:
        free = ledger.to_seconds(ledger.survey(window, [balance])[0].free) if balance.registered else 0.0
        return Verdict(Gate.RESERVATION, job.seconds, free, f"only {free:g} s left when its turn came")
    return blocks
