"""A from-scratch model of the contract, written the naive way: keep every event, recompute every answer.

It shares no code with the apps, so that the two can only agree by both being right. Amounts are integer nanoseconds.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

BLOCK_EXPIRY = 722
HOLD_MARGIN = dt.timedelta(seconds=100)


@dataclass
class Booking:
    miner: str
    executor_class: str
    blocks: list[int]
    expires_at: dt.datetime
    job_uuid: str | None
    end: str = "held"

    def state(self, now: dt.datetime) -> str:
        return "lapsed" if self.end == "held" and now >= self.expires_at else self.end


@dataclass
class Subnet:
    blocks: dict[int, tuple[dt.datetime, float, set[str] | None]] = field(default_factory=dict)
    syncs: list[tuple[int, dict[str, Any], dict[str, dict[str, int]]]] = field(default_factory=list)
    wei: dict[str, int] = field(default_factory=dict)
    incidents: list[dict[str, Any]] = field(default_factory=list)
    started: dict[str, dict[str, Any]] = field(default_factory=dict)
    accepted: dict[str, dict[str, Any]] = field(default_factory=dict)
    finished: dict[str, dict[str, Any]] = field(default_factory=dict)
    bookings: list[Booking] = field(default_factory=list)

    def event(self, e: dict[str, Any]) -> None:
        kind = e["event"]
        if kind == "block":
            hotkeys = set(e["hotkeys"]) if e.get("hotkeys") is not None else None
            self.blocks.setdefault(e["number"], (dt.datetime.fromisoformat(e["timestamp"]), e["stake_share"], hotkeys))
        elif kind == "manifests":
            self.syncs.append((e["block"], e["axons"], e["executors"]))
        elif kind == "collateral":
            self.wei[e["hotkey"]] = int(e["wei"])
        elif kind == "incident":
            if not any((i["hotkey"], i["job_uuid"]) == (e["hotkey"], e["job_uuid"]) for i in self.incidents):
                self.incidents.append(e)
        else:
            {"job_started": self.started, "job_accepted": self.accepted, "job_finished": self.finished}[
                kind
            ].setdefault(e["job_uuid"], e)

    def registered(self, number: int) -> set[str]:
        for n in sorted(self.blocks, reverse=True):
            hotkeys = self.blocks[n][2]
            if n <= number and hotkeys is not None:
                return hotkeys
        return set(self.syncs[0][1]) if self.syncs else set()

    def executors(self, miner: str, cls: str, number: int) -> int:
        count = 0
        for block, axons, executors in self.syncs:
            if block <= number and miner in axons:
                count = executors.get(miner, {}).get(cls, 0)
        return count

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
        out = {}
        for n, (at, share, _) in self.blocks.items():
            if n + 1 in self.blocks and miner in self.registered(n):
                us = (self.blocks[n + 1][0] - at) // dt.timedelta(microseconds=1)
                if us > 12_500_000:
                    us = 12_000_000
                ns = round(us * 1000 * Fraction(share)) * self.executors(miner, cls, n)
                if ns:
                    out[n] = ns
        return out

    def live(self, miner: str, cls: str, start: int) -> dict[int, int]:
        low = max(start - BLOCK_EXPIRY, self.voided_before(miner, cls))
        return {n: ns for n, ns in sorted(self.earned(miner, cls).items()) if n >= low}

    def taken(self, miner: str, cls: str, now: dt.datetime, *states: str) -> set[int]:
        return {
            n
            for b in self.bookings
            if (b.miner, b.executor_class) == (miner, cls) and b.state(now) in states
            for n in b.blocks
        }

    def find(self, seconds: float, cls: str, start: int, now: dt.datetime) -> Any:
        if seconds > 3600:
            return "AllowanceException", 0, 0
        need = round(Fraction(seconds) * 10**9)
        rows, best, unspent = [], 0, 0
        for miner in self.registered(max(self.blocks, default=0)):
            live = self.live(miner, cls, start)
            held_spent = self.taken(miner, cls, now, "held", "spent")
            spent = self.taken(miner, cls, now, "spent")
            free = {n: ns for n, ns in live.items() if n not in held_spent}
            amount = sum(free.values())
            best = max(best, amount)
            unspent = max(unspent, sum(ns for n, ns in live.items() if n not in spent))
            if free and amount >= need:
                rows.append((min(free), -Fraction(amount, sum(live.values())), -amount, miner))
        if not rows:
            return "NotEnoughAllowanceException", best, unspent
        return [(m, -a) for _, _, a, m in sorted(rows)]

    def busy(self, cls: str, now: dt.datetime) -> dict[str, set[str]]:
        out: dict[str, set[str]] = {}
        at = dt.datetime.fromisoformat
        for uuid in {*self.started, *self.accepted}:
            ended = uuid in self.finished and at(self.finished[uuid]["timestamp"]) <= now
            first = self.started.get(uuid)
            for receipt in (first, self.accepted.get(uuid)):
                if receipt is None or ended or first is None or first["executor_class"] != cls:
                    continue
                if at(receipt["timestamp"]) <= now <= at(receipt["timestamp"]) + dt.timedelta(seconds=receipt["ttl"]):
                    out.setdefault(receipt["miner_hotkey"], set()).add(uuid)
                    break
        return out

    def ongoing(self, miner: str, cls: str, now: dt.datetime) -> int:
        jobs: set[Any] = set(self.busy(cls, now).get(miner, set()))
        for i, b in enumerate(self.bookings):
            if (b.miner, b.executor_class, b.state(now)) == (miner, cls, "held") and b.job_uuid not in self.finished:
                jobs.add(b.job_uuid or i)
        return len(jobs)

    def pick(self, request: dict[str, Any], now: dt.datetime, min_wei: int, hours: float) -> Any:
        if request["on_trusted_miner"]:
            return "trusted"
        cls = request["executor_class"]
        seconds = sum(request[f"{part}_time_limit"] for part in ("download", "execution", "upload"))
        newest = max(self.blocks)
        found = self.find(seconds, cls, newest, now)
        if isinstance(found, tuple):
            return found
        found = [m for m, _ in found if min_wei <= 0 or self.wei.get(m, 0) >= min_wei]
        if not found:
            return ("NotEnoughCollateralException",)
        since = now - dt.timedelta(hours=hours)

        def score(miner: str) -> Fraction:
            n = sum(
                i["hotkey"] == miner
                and i["executor_class"] == cls
                and since <= dt.datetime.fromisoformat(i["timestamp"])
                for i in self.incidents
            )
            return Fraction(n, self.executors(miner, cls, newest + 10**9) or 1)

        for miner in sorted(found, key=score):
            if self.ongoing(miner, cls, now) < self.executors(miner, cls, newest + 10**9):
                blocks = self.take(miner, cls, seconds, newest, now)
                self.bookings.append(
                    Booking(miner, cls, blocks, now + dt.timedelta(seconds=seconds) + HOLD_MARGIN, request["uuid"])
                )
                return miner, blocks
        return ("AllMinersBusy",)

    def take(self, miner: str, cls: str, seconds: float, start: int, now: dt.datetime) -> list[int]:
        need, blocks = round(Fraction(seconds) * 10**9), []
        taken = self.taken(miner, cls, now, "held", "spent")
        for n, ns in self.live(miner, cls, start).items():
            if need > 0 and n not in taken:
                blocks.append(n)
                need -= ns
        return blocks if need <= 0 else []

    def end(self, index: int, how: str, now: dt.datetime) -> str:
        booking = self.bookings[index]
        state = booking.state(now)
        if state == "held":
            booking.end = how
            return "ok"
        return {"spent": "ReservationAlreadySpent", "released": "ReservationNotFound", "lapsed": "ReservationExpired"}[
            state
        ]


def isclose(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-6)
