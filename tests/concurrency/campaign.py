"""What the processes of a campaign do: callers with seeded random lives, and the follower of a fast chain."""

from __future__ import annotations

import datetime as dt
import heapq
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from django.db import connection

from tests.concurrency import operations
from tests.concurrency.operations import Word

CLASSES = ["always_on.gpu-24gb", "always_on.llm.a6000"]
EXECUTORS = {"anna": 1, "bert": 1, "cleo": 1, "dora": 2}

PATIENCE = 0.005
"""Seconds that a caller waits before it asks again, when nobody had an idle executor."""


@dataclass
class Caller:
    """Somebody who picks as fast as it can, and ends what it was given in every way there is, or forgets it.

    How long holds last follows from its `pace`, the seconds that its last route took: many end, and many expire, on a
    busy machine too.
    """

    dice: random.Random
    pace: float = 0.05
    plans: list[tuple[float, int, Callable[[], Word]]] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=count)

    def live(self, seconds: float) -> Iterator[Word]:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            while self.plans and self.plans[0][0] <= time.monotonic():
                yield heapq.heappop(self.plans)[2]()
            if self.dice.random() < 0.1:
                yield self.meddle()
            asked = time.monotonic()
            word = self.pick()
            yield word
            if word["result"]:
                self.pace = time.monotonic() - asked
                self.plan(word)
            else:
                time.sleep(PATIENCE)

    def pick(self) -> Word:
        """Ask for a short job or for a long one; either way the hold expires soon, to see many of them do so."""
        seconds = self.dice.choice([self.dice.randint(6, 30), self.dice.randint(6, 30), self.dice.randint(300, 900)])
        life = self.pace * self.dice.uniform(1, 12)
        return operations.pick(seconds, self.dice.choice(CLASSES), life=life)

    def meddle(self) -> Word:
        """End a reservation that is probably somebody else's, if it isn't over."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT COALESCE(MAX(id), 1) FROM allowance_reservation")
            newest: int = cursor.fetchone()[0]
        return self.end(max(1, newest - self.dice.randint(0, 5)))()

    def plan(self, word: Word) -> None:
        """Plan the life of what a pick gave."""
        route: dict[str, Any] = word["result"]
        what = {"job": word["job"], "miner": route["miner"]}
        reservation: int = route["reservation"]
        early = self.dice.uniform(0, word["life"])
        at_the_edge = word["life"] - self.pace * self.dice.random()
        match self.dice.choice(["spend", "undo", "twice", "run", "run", "edge", "edge", "forget"]):
            case "spend":
                self.later(early, lambda: operations.spend(reservation))
            case "undo":
                self.later(early, lambda: operations.undo(reservation))
            case "twice":
                self.later(early, self.end(reservation))
                self.later(early, self.end(reservation))
            case "run":
                ttl, cls = self.dice.randint(0, 2), word["executor_class"]
                self.later(0, lambda: operations.start(**what, executor_class=cls, ttl=ttl))
                self.later(early, lambda: operations.spend(reservation))
                self.later(early + self.dice.uniform(0, 1), lambda: operations.finish(**what))
            case "edge":
                self.later(at_the_edge, self.end(reservation))

    def later(self, seconds: float, call: Callable[[], Word]) -> None:
        heapq.heappush(self.plans, (time.monotonic() + seconds, next(self.numbers), call))

    def end(self, reservation: int) -> Callable[[], Word]:
        operation = self.dice.choice([operations.spend, operations.undo])
        return lambda: operation(reservation)


@dataclass
class Follower:
    """The chain as seen by its follower: blocks of 12 s, many a second, and miners who come, go, rise and drop."""

    dice: random.Random
    number: int
    minted: dt.datetime
    counts: dict[str, dict[str, int]] = field(
        default_factory=lambda: {name: dict.fromkeys(CLASSES, n) for name, n in EXECUTORS.items()}
    )

    def live(self, seconds: float, pause: float) -> Iterator[Word]:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            yield from self.blocks()
            if self.number % 25 == 0:
                yield self.sync()
            time.sleep(pause)

    def blocks(self) -> Iterator[Word]:
        """Mint a block and record it, or two with the newer one first, now and then once more."""
        fresh = [self.mint() for _ in range(2 if self.dice.random() < 0.1 else 1)]
        again = fresh[:1] if self.dice.random() < 0.1 else []
        for what in [*reversed(fresh), *again]:
            yield operations.block(**what)

    def mint(self) -> dict[str, Any]:
        self.number += 1
        self.minted += dt.timedelta(seconds=self.dice.uniform(11, 13.5))
        hotkeys = None
        if self.number % 40 == 0:
            hotkeys = sorted(EXECUTORS.keys() - {self.dice.choice(["anna", "bert", "dora", "nobody"])})
        return {
            "number": self.number,
            "timestamp": self.minted.isoformat(),
            "stake_share": self.dice.uniform(0.5, 1),
            "hotkeys": hotkeys,
        }

    def sync(self) -> Word:
        """Record that a miner has other executors than before: usually as many as at first, or one more or less."""
        name, cls = self.dice.choice(sorted(EXECUTORS)), self.dice.choice(CLASSES)
        self.counts[name][cls] = max(0, EXECUTORS[name] + self.dice.choice([-1, 0, 0, 1]))
        return operations.manifests(self.number, self.counts)


def call(seed: int, seconds: float, pause: float) -> Iterator[Word]:
    with operations.slowly(pause):
        yield from Caller(random.Random(seed)).live(seconds)


def follow(seed: int, seconds: float, pause: float, number: int, minted: str) -> Iterator[Word]:
    return Follower(random.Random(seed), number, dt.datetime.fromisoformat(minted)).live(seconds, pause)


OPERATIONS: dict[str, Callable[..., Iterator[Word]]] = {"call": call, "follow": follow}
