"""What a simulated chain and its miners say, as events of the journal.

Blocks come late, twice and out of order, manifests rise, drop and are missing, miners leave and return, receipts come
late, twice and for jobs that nobody knows. The times of receipts and incidents are seconds from the clock's.
"""

from __future__ import annotations

import datetime as dt
from random import Random
from typing import Any
from uuid import UUID

Event = dict[str, Any]

MINERS = ("anna", "bert", "cleo", "dora")
CLASSES = ("always_on.gpu-24gb", "always_on.test")
FIRST = 1000
START = dt.datetime(2025, 6, 1, tzinfo=dt.UTC)
MOST = 2**256 - 1

DURATIONS = (12_000_000, 12_000_000, 12_000_000, 12_000_000, 11_999_999, 12_500_000, 12_500_001, 60_000_000, 0)
FAULTS = ("MINER_JOB_REJECTED", "MINER_JOB_FAILED", "MINER_HORDE_FAILED")
MOMENTS = (-3601, -3600, -161, -100, -60, -60, -12, 0, 0, 0, 1, 100)
ZERO = "0.0.0.0"  # noqa: S104 (where miners listen, not where we do)
NOWHERE = ((ZERO, 4, 0), (ZERO, 4, 8000), ("::", 6, 8000), ("10.0.0.1", 4, 0), ("10.0.0.1", 0, 8000))
TTLS = (0, 60, 160, 300)


def job(number: int) -> str:
    """Return the uuid of the history's job of this number."""
    return str(UUID(int=number))


class Chain:
    """Draws events, and keeps what it said to say it again. `jobs` counts the jobs there have been."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.number = FIRST - 1
        self.at = START - dt.timedelta(minutes=30)
        self.share = random.choice([0.1, 0.25, 0.25, 1 / 3, 1.0])
        self.jobs = 0
        self.said: list[Event] = []
        self.held_back: list[Event] = []
        self.counts: dict[str, dict[str, int]] = {}
        self.syncs: list[Event] = []
        self.told: list[Event] = []

    def block(self) -> Event:
        """Draw a block: mostly the next one, or one that was held back, one again, one that can't be."""
        chance = self.random.random()
        if self.held_back and chance < 0.25:
            return self.held_back.pop(self.random.randrange(len(self.held_back)))
        if chance < 0.31:
            return self.random.choice(self.said[-8:])
        if chance < 0.36:
            return {**self.random.choice(self.said[-8:]), "stake_share": 0.75, "hotkeys": ["bert"]}
        if chance < 0.40:
            at = self.at - dt.timedelta(days=1)
            return {"event": "block", "number": self.number + 1, "timestamp": at.isoformat(), "stake_share": 0.5}
        if chance < 0.42:
            at = self.at + dt.timedelta(days=3650)
            return {"event": "block", "number": self.number + 1, "timestamp": at.isoformat(), "stake_share": 0.5}
        if chance < 0.53:
            self.held_back.append(self.mint(self.neurons()))
        elif chance < 0.56:
            return self.leap()
        return self.mint(self.neurons())

    def leap(self) -> Event:
        """Draw a block so far ahead that others are out of reach then."""
        self.number += self.random.choice([700, 720, 721, 722, 723, 1010, 1021, 1022, 1023])
        return self.mint(self.neurons())

    def mint(self, hotkeys: list[str] | None) -> Event:
        """Return the next block of the chain."""
        self.number += 1
        block = {"event": "block", "number": self.number, "timestamp": self.at.isoformat(), "stake_share": self.share}
        self.at += dt.timedelta(microseconds=self.random.choice(DURATIONS))
        self.said.append({**block, "hotkeys": hotkeys})
        return self.said[-1]

    def neurons(self) -> list[str] | None:
        if self.random.random() < 0.75:
            return None
        if self.random.random() < 0.5:
            return list(MINERS)
        return sorted(self.random.sample(MINERS, self.random.choice([0, 1, 2, 3, 3, 3])))

    def first_manifests(self, block: int) -> Event:
        """Return the first answers of all miners, or of all but one, asked at or a little before `block`."""
        self.counts = {name: {cls: self.random.randint(1, 3) for cls in CLASSES} for name in MINERS}
        return self._sync(block - self.random.randint(0, 1), self._asked())

    def manifests(self) -> Event:
        """Draw a sync: mostly one miner changed its count, or one does not answer, or it is an old or a known one."""
        chance = self.random.random()
        last = self.syncs[-1]
        if chance < 0.1:
            return self.random.choice(self.syncs[-3:])
        if chance < 0.2:
            return {**last, "block": max(0, last["block"] - self.random.randint(1, 5))}
        miner, cls = self.random.choice(MINERS), self.random.choice(CLASSES)
        self.counts[miner] = {**self.counts.get(miner, {}), cls: self.random.randint(0, 3)}
        silent = {miner} if chance < 0.35 else set()
        self.counts = {name: counts for name, counts in self.counts.items() if name not in silent}
        return self._sync(max(last["block"], self.number + self.random.choice([-2, -1, 0, 0, 1])), self._asked())

    def _asked(self) -> list[str]:
        return list(MINERS) if self.random.random() < 0.7 else self.random.sample(MINERS, 3)

    def _axon(self) -> Event:
        """Draw where a miner listens, sometimes nowhere."""
        if self.random.random() < 0.95:
            return {"address": "10.0.0.1", "ip_version": 4, "port": 8000}
        address, ip_version, port = self.random.choice(NOWHERE)
        return {"address": address, "ip_version": ip_version, "port": port}

    def _sync(self, block: int, asked: list[str]) -> Event:
        axons = {name: self._axon() for name in sorted(asked)}
        answers = {name: dict(counts) for name, counts in self.counts.items() if name in axons}
        self.syncs.append({"event": "manifests", "block": block, "axons": axons, "executors": answers})
        return self.syncs[-1]

    def collateral(self) -> Event:
        wei = self.random.choice([0, 5, 6, 6, 10**18, MOST, MOST])
        return {"event": "collateral", "hotkey": self.random.choice([*MINERS, "elsa"]), "wei": str(wei)}

    def incident(self) -> Event:
        where = {"hotkey": self.random.choice(MINERS), "executor_class": self.random.choice(CLASSES)}
        what = {"type": self.random.choice(FAULTS), "job_uuid": self._job(), "timestamp": self.random.choice(MOMENTS)}
        return self._or_again({"event": "incident", **where, **what})

    def job_started(self) -> Event:
        where = {"executor_class": self.random.choice(CLASSES), "is_organic": True}
        return self._or_again({**self._receipt("job_started"), **where, "ttl": self.random.choice(TTLS)})

    def job_accepted(self) -> Event:
        receipt = self._receipt("job_accepted")
        return self._or_again({**receipt, "time_accepted": receipt["timestamp"], "ttl": self.random.choice(TTLS)})

    def job_finished(self) -> Event:
        receipt = self._receipt("job_finished")
        how = {"time_started": receipt["timestamp"], "time_took_us": 1, "score_str": "1", "block_numbers": []}
        return self._or_again({**receipt, **how})

    def _receipt(self, kind: str) -> Event:
        who = {"miner_hotkey": self.random.choice(MINERS), "validator_hotkey": "vali"}
        return {"event": kind, "job_uuid": self._job(), **who, "timestamp": self.random.choice(MOMENTS)}

    def _job(self) -> str:
        """Name one of the last jobs, or one that nobody knows."""
        if not self.jobs or self.random.random() < 0.1:
            return job(10**6 + self.random.randrange(9))
        return job(self.random.randint(max(1, self.jobs - 7), self.jobs))

    def _or_again(self, event: Event) -> Event:
        """Return the event, or one of its kind that was told before."""
        before = [told for told in self.told[-20:] if told["event"] == event["event"]]
        if before and self.random.random() < 0.12:
            return self.random.choice(before)
        self.told.append(event)
        return event
