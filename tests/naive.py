"""A from-scratch model of the contract, written the naive way: keep every event, recompute every answer.

It shares no code with the apps, so that the two can only agree by both being right. Amounts are integer nanoseconds.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Literal

BLOCK_EXPIRY = 722
KEPT_BLOCKS = BLOCK_EXPIRY + 3600 // 12
AHEAD = dt.timedelta(minutes=15)
RESERVATION_MARGIN = dt.timedelta(seconds=100)
EVER = 10**12

Gate = Literal["absent", "excluded", "allowance", "collateral", "address", "executors"]


@dataclass(frozen=True)
class Refusal:
    """The name of an exception, and the amounts that it carries."""

    kind: str
    available: int = 0
    unspent: int = 0


@dataclass(frozen=True)
class Route:
    miner: str
    blocks: tuple[int, ...] | None


@dataclass(frozen=True)
class Job:
    """What a pick is asked for; `exclude` are hotkeys not to be asked."""

    uuid: str
    executor_class: str
    seconds: float
    exclude: Collection[str] = ()
    minimum_wei: int = 0
    window_hours: float = 24.0
    unused_blocks: int = 0


@dataclass(frozen=True)
class Booking:
    miner: str
    executor_class: str
    blocks: tuple[int, ...]
    expires_at: dt.datetime
    job_uuid: str | None

    def holds(self, miner: str, cls: str) -> bool:
        return (self.miner, self.executor_class) == (miner, cls)


@dataclass
class Subnet:
    """All that happened. `bookings` are by reservation id, and `ends` says how those ended that a row says it of.

    What was pruned is forgotten; `settled` are the blocks that were the oldest to be kept.
    """

    blocks: dict[int, tuple[dt.datetime, float]] = field(default_factory=dict)
    neurons: dict[int, frozenset[str]] = field(default_factory=dict)
    syncs: list[tuple[int, dict[str, Any], dict[str, dict[str, int]]]] = field(default_factory=list)
    wei: dict[str, int] = field(default_factory=dict)
    incidents: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    started: dict[str, dict[str, Any]] = field(default_factory=dict)
    accepted: dict[str, dict[str, Any]] = field(default_factory=dict)
    finished: dict[str, dict[str, Any]] = field(default_factory=dict)
    bookings: dict[int, Booking] = field(default_factory=dict)
    ends: dict[int, str] = field(default_factory=dict)
    settled: set[int] = field(default_factory=set)
    known: dict[tuple[str, str], dict[int, int]] = field(default_factory=dict, repr=False)
    """What each account earned, until the next word of the chain: the one thing not recomputed every time."""

    def copy(self) -> Subnet:
        """Return the model as it is now, whatever is told to this one later."""
        return Subnet(**{name: value.copy() for name, value in vars(self).items()})

    def with_blocks_of(self, other: Subnet) -> Subnet:
        """Return this model as somebody sees it who read the blocks when it was `other`.

        Blocks that were forgotten since are read again.
        """
        oldest = min(self.blocks, default=EVER)
        taken_back = any(self.blocks.get(n) != block for n, block in other.blocks.items() if n >= oldest)
        return self if taken_back else replace(self, blocks=other.blocks, known={})

    def event(self, e: dict[str, Any], now: dt.datetime) -> None:
        """Take in an event of a journal. Raises ValueError for one that can't be recorded `now`."""
        kind = e["event"]
        if kind == "block":
            at = dt.datetime.fromisoformat(e["timestamp"])
            if at > now + AHEAD:
                raise ValueError("a block from the future")
            self._block(e["number"], at, e["stake_share"], e.get("hotkeys"))
        elif kind == "manifests":
            sync = (e["block"], e["axons"], e["executors"])
            if sync in self.syncs:
                return
            if any(block > e["block"] for block, _, _ in self.syncs):
                raise ValueError("manifests out of order")
            self.syncs.append(sync)
            self.known.clear()
        elif kind == "collateral":
            self.wei[e["hotkey"]] = int(e["wei"])
        elif kind == "incident":
            self.incidents.setdefault((e["hotkey"], e["job_uuid"]), e)
        else:
            if dt.datetime.fromisoformat(e["timestamp"]) > now + dt.timedelta(seconds=60):
                raise ValueError("a receipt from the future")
            self.receipts(kind).setdefault(e["job_uuid"], e)

    def receipts(self, kind: str) -> dict[str, dict[str, Any]]:
        return {"job_started": self.started, "job_accepted": self.accepted, "job_finished": self.finished}[kind]

    def _block(self, number: int, at: dt.datetime, share: float, hotkeys: list[str] | None) -> None:
        if number in self.blocks:
            return
        if any((n < number and then > at) or (n > number and then < at) for n, (then, _) in self.blocks.items()):
            raise ValueError("a block out of time")
        self.blocks[number] = at, share
        if hotkeys is not None:
            self.neurons[number] = frozenset(hotkeys)
        self.known.clear()

    def settle(self, oldest: int, gone: Collection[int]) -> None:
        """Forget blocks below the `oldest` that is kept; who is registered there stays so."""
        if any(n <= oldest for n in self.neurons):
            self.neurons[oldest] = self.registered(oldest)
        for n in gone:
            del self.blocks[n]
            self.neurons.pop(n, None)
        self.settled.add(oldest)
        self.known.clear()

    def users(self, first: int, now: dt.datetime) -> dict[int, str]:
        """Return how the reservations stand that use blocks from `first` on, unless a row says they ended."""
        return {
            pk: self.state(pk, now)
            for pk, b in self.bookings.items()
            if max(b.blocks) >= first and self.ends.get(pk, "spent") == "spent"
        }

    def keeps(self, first: int, now: dt.datetime, *, release: bool) -> bool:
        """Tell whether reservations keep the blocks from `first` on from being forgotten."""
        states = self.users(first, now).values()
        return "spent" in states or ("held" in states and not release)

    def forget(self, first: int, now: dt.datetime) -> dict[int, str]:
        """Forget the blocks from `first` on and the syncs at them. Return the reservations that ended, and how."""
        ended = {pk: "released" if state == "held" else state for pk, state in self.users(first, now).items()}
        self.ends.update(ended)
        self.blocks = {n: block for n, block in self.blocks.items() if n < first}
        self.neurons = {n: names for n, names in self.neurons.items() if n < first}
        self.syncs = [sync for sync in self.syncs if sync[0] < first]
        self.known.clear()
        return ended

    @property
    def newest(self) -> int:
        return max(self.blocks, default=0)

    def registered(self, number: int = EVER) -> frozenset[str]:
        """Return who is registered at a block; left out: by the newest list of neurons."""
        listed = [n for n in self.neurons if n <= number]
        if listed:
            return self.neurons[max(listed)]
        return frozenset(self.syncs[0][1]) if self.syncs else frozenset()

    def executors(self, miner: str, cls: str, number: int = EVER) -> int:
        for block, axons, executors in reversed(self.syncs):
            if block <= number and miner in axons:
                count: int = executors.get(miner, {}).get(cls, 0)
                return count
        return 0

    def reachable(self, miner: str) -> bool:
        """Tell whether what a miner announced last can be reached."""
        for _, axons, _ in reversed(self.syncs):
            if axon := axons.get(miner):
                return bool(axon["port"] and axon["ip_version"]) and axon["address"].strip("0:.") != ""
        return False

    def voided_before(self, miner: str, cls: str) -> int:
        voided = count = 0
        for block, axons, executors in self.syncs:
            if miner in axons:
                new = executors.get(miner, {}).get(cls, 0)
                if new < count:
                    voided = block
                count = new
        return voided

    def earned(self, miner: str, cls: str) -> dict[int, int]:
        """Return what each block gave, voided ones too, in order."""
        if (miner, cls) not in self.known:
            self.known[miner, cls] = self._earned(miner, cls)
        return self.known[miner, cls]

    def _earned(self, miner: str, cls: str) -> dict[int, int]:
        out = {}
        for n, (at, share) in sorted(self.blocks.items()):
            if n + 1 in self.blocks and (count := self.executors(miner, cls, n)) and miner in self.registered(n):
                us = (self.blocks[n + 1][0] - at) // dt.timedelta(microseconds=1)
                if us > 12_500_000:
                    us = 12_000_000
                if ns := round(us * 1000 * Fraction(share)) * count:
                    out[n] = ns
        return out

    def live(self, miner: str, cls: str, start: int) -> dict[int, int]:
        """Return what the blocks give that a job starting at `start` may use, taken or not."""
        low = max(start - BLOCK_EXPIRY, self.voided_before(miner, cls), self.newest - KEPT_BLOCKS)
        return {n: ns for n, ns in self.earned(miner, cls).items() if n >= low}

    def state(self, pk: int, now: dt.datetime) -> str:
        return self.ends.get(pk) or ("expired" if now >= self.bookings[pk].expires_at else "held")

    def taken(self, miner: str, cls: str, now: dt.datetime, *states: str) -> set[int]:
        mine = [pk for pk, b in self.bookings.items() if b.holds(miner, cls) and self.state(pk, now) in states]
        return {n for pk in mine for n in self.bookings[pk].blocks}

    def free(self, miner: str, cls: str, start: int, now: dt.datetime) -> dict[int, int]:
        """Return what the free blocks give, none of a miner that is not registered."""
        if miner not in self.registered():
            return {}
        taken = self.taken(miner, cls, now, "held", "spent")
        return {n: ns for n, ns in self.live(miner, cls, start).items() if n not in taken}

    def unspent(self, miner: str, cls: str, start: int, now: dt.datetime) -> int:
        spent = self.taken(miner, cls, now, "spent")
        return sum(ns for n, ns in self.live(miner, cls, start).items() if n not in spent)

    def find(
        self, seconds: float, cls: str, start: int, now: dt.datetime, exclude: Collection[str] = ()
    ) -> list[tuple[str, int]] | Refusal:
        if problem := bad_seconds(seconds):
            return Refusal(problem)
        rows, best, unspent = [], 0, 0
        for miner in self.registered() - set(exclude):
            free = self.free(miner, cls, start, now)
            amount = sum(free.values())
            best = max(best, amount)
            unspent = max(unspent, self.unspent(miner, cls, start, now))
            if free and amount >= to_ns(seconds):
                share = Fraction(amount, sum(self.live(miner, cls, start).values()))
                rows.append((min(free), -share, -amount, miner))
        if not rows:
            return Refusal("NotEnoughAllowanceException", best, unspent)
        return [(miner, -amount) for _, _, amount, miner in sorted(rows)]

    def busy(self, cls: str, now: dt.datetime) -> dict[str, set[str]]:
        out: dict[str, set[str]] = {}
        at = dt.datetime.fromisoformat
        for uuid, first in self.started.items():
            if first["executor_class"] != cls or (
                uuid in self.finished and at(self.finished[uuid]["timestamp"]) <= now
            ):
                continue
            for receipt in (first, self.accepted.get(uuid)):
                if receipt is None:
                    continue
                if at(receipt["timestamp"]) <= now <= at(receipt["timestamp"]) + dt.timedelta(seconds=receipt["ttl"]):
                    out.setdefault(receipt["miner_hotkey"], set()).add(uuid)
                    break
        return out

    def ongoing(self, miner: str, cls: str, now: dt.datetime) -> int:
        jobs: set[Any] = set(self.busy(cls, now).get(miner, set()))
        for pk, b in self.bookings.items():
            if b.holds(miner, cls) and self.state(pk, now) == "held" and b.job_uuid not in self.finished:
                jobs.add(b.job_uuid or pk)
        return len(jobs)

    def start(self, job: Job) -> int:
        """Return the block that a job starts at: later than the newest one, if the oldest blocks stay unused."""
        return self.newest + job.unused_blocks

    def gate(self, miner: str, job: Job, now: dt.datetime) -> Gate | None:
        """Return the first thing that keeps a miner from the job, or None."""
        cls = job.executor_class
        if miner not in self.registered():
            return "absent"
        if miner in job.exclude:
            return "excluded"
        if sum(self.free(miner, cls, self.start(job), now).values()) < to_ns(job.seconds):
            return "allowance"
        if self.wei.get(miner, 0) < job.minimum_wei:
            return "collateral"
        if not self.reachable(miner):
            return "address"
        return "executors" if self.ongoing(miner, cls, now) >= self.executors(miner, cls) else None

    def pick(self, job: Job, now: dt.datetime) -> Route | Refusal:
        cls = job.executor_class
        found = self.find(job.seconds, cls, self.start(job), now, job.exclude)
        if isinstance(found, Refusal):
            return found
        since = now - dt.timedelta(hours=job.window_hours)

        def score(miner: str) -> Fraction:
            n = sum(
                (i["hotkey"], i["executor_class"]) == (miner, cls)
                and since <= dt.datetime.fromisoformat(i["timestamp"])
                for i in self.incidents.values()
            )
            return Fraction(n, self.executors(miner, cls) or 1)

        gates = {miner: self.gate(miner, job, now) for miner, _ in found}
        if set(gates.values()) == {"collateral"}:
            return Refusal("NotEnoughCollateralException")
        for miner in sorted(gates, key=score):
            if gates[miner] is None:
                return Route(miner, self.take(miner, cls, job.seconds, self.start(job), now))
        return Refusal("AllMinersBusy")

    def take(self, miner: str, cls: str, seconds: float, start: int, now: dt.datetime) -> tuple[int, ...]:
        """Return the oldest free blocks that pay for so many seconds, none if they can't."""
        need, blocks = to_ns(seconds), []
        for n, ns in self.free(miner, cls, start, now).items():
            if need > 0:
                blocks.append(n)
                need -= ns
        return tuple(blocks) if need <= 0 else ()

    def expired(self, miner: str, cls: str, now: dt.datetime) -> set[int]:
        """Return the holds that expired and of which no row says so."""
        return {
            pk
            for pk, b in self.bookings.items()
            if b.holds(miner, cls) and pk not in self.ends and self.state(pk, now) == "expired"
        }

    def ending(self, pk: int, now: dt.datetime) -> Refusal | None:
        """Return why a reservation can't be spent or released, or None if it can."""
        if pk not in self.bookings:
            return Refusal("ReservationNotFound")
        names = {"spent": "AlreadySpent", "released": "Released", "expired": "Expired"}
        state = self.state(pk, now)
        return None if state == "held" else Refusal(f"Reservation{names[state]}")


def bad_seconds(seconds: float) -> str | None:
    """Return the name of the refusal for a job that may take so long, or None."""
    if not 0 < seconds < float("inf"):
        return "ValueError"
    return "JobTooLong" if seconds > 3600 else None


def to_ns(seconds: float) -> int:
    return max(1, round(Fraction(seconds) * 10**9))
