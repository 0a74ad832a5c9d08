"""A chain in memory, for the follower: its blocks follow from their numbers, and a test scripts what goes wrong."""

from __future__ import annotations

import asyncio
import datetime as dt
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from allowance.follow.sources import (
    BlockUnreadable,
    ChainBlock,
    Head,
    Manifests,
    Neuron,
    StateDiscarded,
)
from tests.ledgers import CLASS

VALIDATOR, OTHER_VALIDATOR = "validator", "other-validator"
BEGINS = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@dataclass
class Lone:
    """A scripted chain. Its `miners` have one executor of CLASS each."""

    head: int = 100
    miners: tuple[str, ...] = ("alice", "bob")
    begins: dt.datetime = BEGINS
    name: str = "scripted"
    pace: float = 1000.0
    deadline: float = 10.0
    forks: dict[int, str] = field(default_factory=dict)
    discarded_below: int = 0
    permitted: set[str] = field(default_factory=lambda: {VALIDATOR, OTHER_VALIDATOR})
    unreadable: dict[int, int] = field(default_factory=dict)
    broken: dict[int, Exception] = field(default_factory=dict)
    hangs: bool = False
    fails: Exception | None = None
    renewed: int = 0
    read: list[int] = field(default_factory=list)

    async def genesis(self) -> str:
        return self.hash_of(0)

    async def latest(self) -> Head:
        if self.fails:
            raise self.fails
        if self.hangs:
            await asyncio.Event().wait()
        return Head(self.head, self.hash_of(self.head))

    async def block(self, number: int) -> ChainBlock:
        self.read.append(number)
        if error := self.broken.get(number):
            raise error
        if number in self.unreadable:
            raise BlockUnreadable(number, self.unreadable[number], "unknown type")
        if number < self.discarded_below:
            raise StateDiscarded(number)
        return self.made(number)

    def made(self, number: int) -> ChainBlock:
        """Return a block without its faults."""
        return ChainBlock(
            number,
            self.hash_of(number),
            self.hash_of(number - 1),
            self.begins + dt.timedelta(seconds=12 * number),
            self.neurons,
        )

    @property
    def neurons(self) -> tuple[Neuron, ...]:
        validators = [
            Neuron(0, VALIDATOR, "0.0.0.0", 4, 0, permit=VALIDATOR in self.permitted, stake=1),  # noqa: S104 (an axon without an address)
            Neuron(1, OTHER_VALIDATOR, "0.0.0.0", 4, 0, permit=OTHER_VALIDATOR in self.permitted, stake=3),  # noqa: S104
        ]
        miners = [
            Neuron(uid, hotkey, f"10.0.0.{uid}", 4, 9000, permit=False, stake=0)
            for uid, hotkey in enumerate(self.miners, 2)
        ]
        return (*validators, *miners)

    async def hash(self, number: int) -> str:
        return self.hash_of(number)

    def hash_of(self, number: int) -> str:
        fork = "".join(name for at, name in sorted(self.forks.items()) if at <= number)
        return "0x" + sha256(f"{number}/{fork}".encode()).hexdigest()

    async def commitments(self, _number: int) -> Mapping[str, bytes]:
        return {}

    async def evm_addresses(self, _number: int) -> Mapping[int, str]:
        return {}

    async def renew(self) -> None:
        self.renewed += 1

    async def close(self) -> None:
        self.hangs = True


@dataclass
class Chain(Lone):
    """A scripted chain that is at the same time a source of manifests."""

    silent: set[str] = field(default_factory=set)
    executors: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, ...]] = field(default_factory=list)

    async def manifests(self, _block: ChainBlock, miners: Sequence[Neuron]) -> Manifests:
        self.asked.append(tuple(miner.hotkey for miner in miners))
        answers: dict[str, Any] = {name: {CLASS: 1} for name in self.asked[-1] if name in self.miners}
        answers |= {name: counts for name, counts in self.executors.items() if name in self.asked[-1]}
        return {name: counts for name, counts in answers.items() if name not in self.silent}


class Dead:
    """A source of manifests that fails."""

    name = "dead"

    async def manifests(self, _block: ChainBlock, _miners: Sequence[Neuron]) -> Manifests:
        raise OSError("no route to host")


class Hanging(Lone):
    """A chain that says that it was asked, and never answers."""

    async def genesis(self) -> str:
        sys.stdout.write("asked\n")
        sys.stdout.flush()
        await asyncio.Event().wait()
        return ""

    async def latest(self) -> Head:
        await self.genesis()
        return await super().latest()
