"""A history is data: the steps that a simulation goes through, drawn from one seed before anything runs.

A step is one action of a router, or a burst of two or three that run side by side. What an action refers to, it does by
its place (`back`: the reservation that many before the newest), so that a history makes sense with steps left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.properties.chain import CLASSES, MINERS, Chain, job

Do = dict[str, Any]

ROUTERS = 4
LENGTH = 250
"""Actions of a history."""

STATEMENT, BEFORE_COMMIT, AFTER_COMMIT = "statement", "before commit", "after commit"
POINTS = (STATEMENT, BEFORE_COMMIT, AFTER_COMMIT)

EVENTS = ("block", "manifests", "collateral", "incident", "job_started", "job_accepted", "job_finished")
STATEMENTS = {"incident": 1, "job_started": 1, "job_accepted": 1, "job_finished": 1, "spend": 6, "undo": 6, "prune": 60}
"""At how many statements at most a history crashes these; others make more."""

WRITERS = (*EVENTS, "pick", "reserve", "spend", "undo", "repair", "prune", "forget")


@dataclass(frozen=True)
class Action:
    """What a router does: an event of the journal, or something asked. `crash` is a kind of point, and which of it."""

    router: int
    do: Do
    crash: tuple[str, int] | None = None

    @property
    def kind(self) -> str:
        """The journal's word for an event, or ours for what is asked."""
        name: str = self.do.get("event") or self.do["ask"]
        return name


@dataclass(frozen=True)
class Step:
    """Actions that run side by side, in the order that `schedule` is the seed of."""

    actions: tuple[Action, ...]
    schedule: int = 0


def dump(steps: Iterable[Step]) -> str:
    """Return a history as a journal: a line of JSON for each step."""
    return "".join(json.dumps(_step_json(step)) + "\n" for step in steps)


def load(lines: Iterable[str]) -> list[Step]:
    """Return the history that `dump` wrote."""
    return [_step(json.loads(line)) for line in lines if line.strip()]


def _step_json(step: Step) -> Do:
    actions = [{"router": a.router, "do": a.do} | ({"crash": list(a.crash)} if a.crash else {}) for a in step.actions]
    return actions[0] if len(actions) == 1 else {"burst": actions, "schedule": step.schedule}


def _step(line: Do) -> Step:
    actions = [
        Action(a["router"], a["do"], (a["crash"][0], a["crash"][1]) if "crash" in a else None)
        for a in line.get("burst", [line])
    ]
    return Step(tuple(actions), line.get("schedule", 0))


def generate(seed: int, length: int = LENGTH) -> list[Step]:
    """Draw the history of a seed, `length` actions or few more."""
    author = Author(seed)
    steps = author.opening()
    while sum(len(step.actions) for step in steps) < length:
        steps += author.steps()
    return steps


COMMON = {
    "pick": 30,
    "block": 14,
    "reserve": 7,
    "spend": 7,
    "undo": 6,
    "find": 6,
    "clock": 8,
    "expire": 6,
    "manifests": 4,
    "job_started": 4,
    "job_accepted": 3,
    "job_finished": 6,
    "collateral": 2,
    "incident": 4,
    "policy": 2,
    "skew": 1,
    "repair": 1,
    "prune": 1,
    "forget": 1,
}
PICKS = (("pick", "pick"), ("pick", "pick", "pick"), ("pick", "reserve"), ("find", "pick"))
TOGETHER = (
    *PICKS,
    ("reserve", "pick", "block"),
    ("pick", "block"),
    ("pick", "block", "manifests"),
    ("pick", "manifests"),
    ("reserve", "manifests"),
    ("pick", "spend"),
    ("pick", "undo", "pick"),
    ("spend", "undo"),
    ("spend", "spend"),
    ("undo", "manifests"),
    ("spend", "manifests"),
    ("find", "undo", "pick"),
    ("block", "block"),
    ("manifests", "manifests"),
    ("pick", "job_started"),
    ("pick", "job_finished", "pick"),
    ("incident", "incident"),
    ("collateral", "pick", "block"),
    ("repair", "pick"),
    ("repair", "block", "spend"),
    ("prune", "pick"),
    ("prune", "pick", "block"),
    ("prune", "spend", "manifests"),
    ("prune", "reserve", "job_finished"),
    ("prune", "prune"),
    ("forget", "pick"),
    ("forget", "pick", "block"),
    ("forget", "reserve", "manifests"),
    ("forget", "spend", "undo"),
    ("forget", "find", "prune"),
)


class Author:
    """Draws one history."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.chain = Chain(self.random)
        self.jobs = 0

    def opening(self) -> list[Step]:
        """Draw what is there before the first job: clocks that differ, a chain, manifests."""
        count = self.random.randint(10, 25)
        first = self.random.randint(0, count)
        events = [self.chain.mint(hotkeys=sorted(MINERS) if i == 0 else None) for i in range(count)]
        if self.random.random() < 0.3:
            self.random.shuffle(events)
        events.insert(first, self.chain.first_manifests(events[min(first, count - 1)]["number"]))
        skews = [Action(i, self.skew()) for i in range(ROUTERS)]
        return [Step((action,)) for action in skews + [Action(self.router(), event) for event in events]]

    def steps(self) -> list[Step]:
        """Draw what comes next; time passes before something is pruned, or nothing would be past use."""
        drawn = self.next()
        if any(action.kind == "prune" for step in drawn for action in step.actions):
            return [Step((Action(self.router(), do),)) for do in self.while_later()] + drawn
        return drawn

    def next(self) -> list[Step]:
        """Draw what comes next: mostly one action, sometimes one that crashes, sometimes a burst."""
        chance = self.random.random()
        if chance < 0.1:
            return [Step((self.crash(Action(self.router(), self.do(self.random.choice(WRITERS)))),))]
        if chance < 0.22:
            return [self.burst(TOGETHER)]
        if chance < 0.25:
            return [Step((Action(self.router(), self.expire()),)), self.burst(PICKS)]
        (kind,) = self.random.choices(list(COMMON), list(COMMON.values()))
        return [Step((Action(self.router(), self.do(kind)),))]

    def burst(self, combinations: Sequence[tuple[str, ...]]) -> Step:
        """Draw actions that get into each other's way."""
        kinds = self.random.choice(combinations)
        routers = self.random.sample(range(ROUTERS), len(kinds))
        actions = [Action(router, self.do(kind, alone=False)) for router, kind in zip(routers, kinds, strict=True)]
        if self.random.random() < 0.2:
            actions[0] = self.crash(actions[0])
        return Step(tuple(actions), self.random.getrandbits(32))

    def do(self, kind: str, *, alone: bool = True) -> Do:
        """Draw what an action of this kind does; `repair` damages something first, if it is `alone`."""
        if kind == "repair":
            return self.repair(alone=alone)
        draw = getattr(self.chain, kind, None) or getattr(self, kind)
        do: Do = draw()
        return do

    def crash(self, action: Action) -> Action:
        """Let an action crash, if it comes that far."""
        point = self.random.choice(POINTS)
        most = STATEMENTS.get(action.kind, 14)
        return Action(action.router, action.do, (point, self.random.randrange(most) if point == STATEMENT else 0))

    def router(self) -> int:
        return self.random.randrange(ROUTERS)

    def skew(self) -> Do:
        return {"ask": "skew", "us": self.random.choice([0, -1, 1, self.random.randint(-120_000_000, 120_000_000)])}

    def clock(self) -> Do:
        forward = self.random.choice([0.000001, 1, 1, 12, 12, 30, 59.999999, 60, 100])
        backward = self.random.choice([-0.000001, -0.5, -3, -40])
        return {"ask": "clock", "seconds": backward if self.random.random() < 0.15 else forward}

    def while_later(self) -> list[Do]:
        """Draw how time passes until much is past use: by the clock, and mostly by the chain as well."""
        seconds = self.random.choice([100, 3700, 3701, 3800, 8000, 30 * 3600])
        leap = [self.chain.leap(), *(self.chain.mint(None) for _ in range(6))] if self.random.random() < 0.5 else []
        return [{"ask": "clock", "seconds": seconds}, *leap]

    def prune(self) -> Do:
        return {"ask": "prune", "batch": self.random.choice([1, 2, 100])}

    def forget(self) -> Do:
        """Draw from which block on all are forgotten; those that are told again come back."""
        first = self.chain.number - self.random.choice([-1, 0, 0, 1, 2, 3, 5, 8, 40, 2000])
        return {"ask": "forget", "first": max(0, first), "release": self.random.random() < 0.7}

    def expire(self) -> Do:
        return {"ask": "expire", "back": self.back(), "us": self.random.choice([-1, 0, 0, 1, 1])}

    def policy(self) -> Do:
        wei = self.random.choice([0, 0, 0, 0, 5, 6, 10**18, 2**256 - 1])
        hours, unused = self.random.choice([(0.0, 15), (0.02, 700), (1.0, 0), (24.0, 0)])
        return {"ask": "policy", "wei": wei, "hours": hours, "unused": unused}

    def repair(self, *, alone: bool) -> Do:
        what = self.random.choice([None, "held", "spent", "executors", "voided_before", "presence", "ns"])
        return {"ask": "repair", "damage": what if alone else None, "nth": self.random.randrange(8)}

    def seconds(self) -> float:
        if self.random.random() < 0.06:
            return self.random.choice([0, -1, 3601, 1e9, 3600])
        return self.random.choice([self.random.randint(1, 40), self.random.randint(1, 40), 0.5, 12, 24])

    def cls(self) -> str:
        return self.random.choice([*CLASSES, CLASSES[0], CLASSES[0]])

    def back(self) -> int:
        return min(int(self.random.expovariate(0.5)), 12)

    def uuid(self) -> str:
        """Name the next job, sometimes one that was there before, sometimes badly."""
        if self.random.random() < 0.02:
            return "not-a-uuid"
        if not self.jobs or self.random.random() < 0.9:
            self.jobs += 1
            self.chain.jobs = self.jobs
            return job(self.jobs)
        return job(self.random.randint(max(1, self.jobs - 6), self.jobs))

    def pick(self) -> Do:
        total = self.seconds()
        upload = self.random.choice([0, 0, min(5, max(0, int(total)))])
        exclude = self.random.sample(MINERS, self.random.choice([0, 0, 0, 0, 1, 2]))
        limits = [0, total - upload, upload]
        named = {"uuid": self.uuid(), "executor_class": self.cls(), "limits": limits, "exclude": exclude}
        trusted, whole = self.random.random() < 0.01, self.random.random() < 0.5
        return {"ask": "pick", **named, "trusted": trusted, "whole": whole}

    def find(self) -> Do:
        start = self.chain.number + self.random.choice([0, 0, 0, -2, 3, 700, 740, -290, -1000])
        seconds = self.random.choice([self.seconds(), self.random.uniform(0.001, 60)])
        cls = self.random.choice([self.cls(), self.cls(), "no.such.class"])
        return {"ask": "find", "seconds": seconds, "executor_class": cls, "start": max(0, start)}

    def reserve(self) -> Do:
        cls = self.cls() if self.random.random() < 0.95 else "no.such.class"
        start = self.chain.number + self.random.choice([0, 0, 0, 0, 5, -3, -290])
        miner = self.random.choice([*MINERS, *MINERS, "nobody"])
        uuid = self.random.choice([None, self.uuid()])
        what = {"seconds": self.seconds(), "start": max(0, start), "uuid": uuid}
        return {"ask": "reserve", "miner": miner, "executor_class": cls, **what}

    def spend(self) -> Do:
        return self.end("spend")

    def undo(self) -> Do:
        return self.end("undo")

    def end(self, how: str) -> Do:
        if self.random.random() < 0.06:
            return {"ask": how, "id": self.random.choice([0, -1, 10**12, 2**63])}
        return {"ask": how, "back": self.back()}


def size(steps: Sequence[Step]) -> int:
    """Return the number of actions of a history."""
    return sum(len(step.actions) for step in steps)
