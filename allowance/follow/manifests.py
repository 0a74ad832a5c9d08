"""The loop that records which executors the miners declare."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, NamedTuple

from allowance import clock, validation
from allowance.follow.sources import NOWHERE, ChainBlock, Manifests, ManifestSource, Neuron, SourceError
from allowance.ledger import value_at
from allowance.models import Account, ManifestSync, Miner
from allowance.plumbing.calls import Calls
from allowance.plumbing.threads import in_database_thread
from allowance.types import EXECUTOR_CLASSES, MAX_EXECUTORS, BadInputError

EVERY = 25
"""The number of blocks from one sync to the next: five minutes."""

MANY = 10
"""The brake works from this number of silent miners on."""

LATELY = 300
"""The number of blocks, an hour, in which the brake remembers the miners that declared executors."""

FRESH = dt.timedelta(seconds=120)
"""The maximum age of the newest block. Older, it is our node that does not answer, and the miners are not asked."""

AGAIN_AFTER = 10.0
"""Seconds until miners that had executors and did not answer are asked once more. A drop voids their allowance."""

DEADLINE = 600.0
"""The maximum time (s) of asking all miners. A source bounds the time of each miner itself."""

SHOWN, REASONS = 50, 10
"""The number of silent miners, and of different reasons of silence, that are reported."""


class HeldBack(SourceError):
    """A sync that would void most allowance. It is not recorded, because the cause is probably our own network."""

    wait = 60.0

    def __init__(self, block: int, silent: int, declared: int) -> None:
        self.block, self.silent, self.declared = block, silent, declared
        super().__init__(
            f"{silent} of {declared} miners that had executors did not answer at block {block}. This sync is not "
            "recorded, because it would void their allowance. Check the network of this host. If the miners are "
            "really gone, stop the follower, and run manage.py follow_chain --once --accept-silence."
        )


class Stale(SourceError):
    """The newest recorded block is old, so miners are not asked."""

    wait = 5.0

    def __init__(self, block: int, age: dt.timedelta) -> None:
        self.block, self.age = block, age
        super().__init__(
            f"The newest recorded block, {block}, is {age.total_seconds():.0f} s old. The miners are asked when the "
            "chain can be read again."
        )


class Sync(NamedTuple):
    """The input of `record_manifests`. `clipped` is the number of counts that were above the limit."""

    block: int
    axons: dict[str, dict[str, str | int]]
    executors: dict[str, dict[str, int]]
    clipped: int


def sanitised(block: ChainBlock, answers: Manifests, limits: Mapping[str, int]) -> Sync:
    """Return what can be recorded of the answers of miners.

    A class that is unknown, and a count that is no whole number of 0 or more, are left out: the miner declares no
    executors of that class. A count above the limit of its class is clipped. An answer that is no mapping is no answer.
    """
    axons = {neuron.hotkey: _axon(neuron) for neuron in block.neurons}
    executors: dict[str, dict[str, int]] = {}
    clipped = 0
    for hotkey in axons.keys() & answers.keys():
        if not isinstance(answer := answers[hotkey], Mapping):
            continue
        executors[hotkey] = {}
        for name, count in answer.items():
            if name in EXECUTOR_CLASSES and validation.is_integer(count) and count >= 0:
                executors[hotkey][name] = min(count, limits.get(name, MAX_EXECUTORS), MAX_EXECUTORS)
                clipped += executors[hotkey][name] < count
    return Sync(block.number, axons, executors, clipped)


def _axon(neuron: Neuron) -> dict[str, str | int]:
    """Return the axon of a neuron. One that `record_manifests` would refuse becomes NOWHERE."""
    axon: dict[str, str | int] = {
        "address": neuron.address,
        "ip_version": neuron.ip_version,
        "port": neuron.port,
    }
    try:
        validation.axon(neuron.hotkey, axon)
    except BadInputError:
        return NOWHERE
    return axon


def with_executors(block: int) -> set[str]:
    """Return the hotkeys of the registered miners that declare executors, or did in a sync of the last LATELY blocks.

    With the present ones alone, losses of our own network that grow from sync to sync would pass the brake in steps.
    """
    declared = set(Account.objects.filter(executors__gt=0).values_list("miner", flat=True))
    lately = ManifestSync.objects.filter(block__gt=block - LATELY).values_list("executors", flat=True)
    declared |= {hotkey for answers in lately for hotkey, counts in answers.items() if any(counts.values())}
    presences = Miner.objects.filter(pk__in=declared).values_list("hotkey", "presence")
    return {hotkey for hotkey, presence in presences if value_at(presence, block)}


def newest_sync() -> int | None:
    """Return the block of the newest manifest sync."""
    return ManifestSync.objects.order_by("-block").values_list("block", flat=True).first()


class ManifestLoop:
    """The loop of the manifests. `block` returns the newest recorded block; `write` records a sync.

    `limits` returns the maximum number of executors by class. It may use the database.
    """

    name = "manifests"

    def __init__(
        self,
        source: ManifestSource,
        block: Callable[[], Awaitable[ChainBlock | None]],
        write: Callable[[Sync], None],
        *,
        limits: Callable[[], Mapping[str, int]],
        poll: float,
        accept_silence: bool = False,
        again_after: float = AGAIN_AFTER,
    ) -> None:
        self.source, self.adapter, self.block, self.write = source, source.name, block, write
        self.limits, self.poll, self.accept_silence, self.again_after = limits, poll, accept_silence, again_after
        self.calls = Calls()
        self.detail: dict[str, Any] = {}

    async def step(self) -> float:
        """Ask all miners, if a sync is due, and record their answers. Raises what `sync` raises."""
        block = await self.block()
        if block is not None and await in_database_thread(_is_due)(block.number):
            await in_database_thread(self.write)(await self.sync(block))
            self.accept_silence = False
        return self.poll

    async def sync(self, block: ChainBlock) -> Sync:
        """Ask all miners, and return what can be recorded. Raises Stale or HeldBack if it must not be recorded."""
        if (age := await in_database_thread(_age)(block)) > FRESH:
            raise Stale(block.number, age)
        declared = await in_database_thread(with_executors)(block.number)
        sync = sanitised(block, await self.ask(block, declared), await in_database_thread(self.limits)())
        silent = sorted(declared - sync.executors.keys())
        reasons: Mapping[str, str] = getattr(self.source, "silences", {})
        self.detail = {
            "block": block.number,
            "asked": len(sync.axons),
            "answered": len(sync.executors),
            "silent": silent[:SHOWN],
            "reasons": {hotkey: reasons[hotkey] for hotkey in silent[:SHOWN] if hotkey in reasons},
            "why": dict(Counter(reasons.values()).most_common(REASONS)),
            "held_back": "",
            "clipped": sync.clipped,
        }
        if len(silent) >= MANY and 2 * len(silent) > len(declared) and not self.accept_silence:
            error = HeldBack(block.number, len(silent), len(declared))
            self.detail["held_back"] = str(error)
            raise error
        return sync

    async def ask(self, block: ChainBlock, declared: Collection[str]) -> Manifests:
        """Return the answers of the miners. Those that are `declared` and silent are asked once more."""
        answers = dict(await self.calls.make("manifests", self.source.manifests(block, block.neurons), DEADLINE))
        silent = [n for n in block.neurons if n.hotkey in declared and n.hotkey not in answers]
        if silent:
            await asyncio.sleep(self.again_after)
            answers |= await self.calls.make("manifests", self.source.manifests(block, silent), DEADLINE)
        return answers

    async def close(self) -> None:
        """Do nothing: a manifest source keeps no connections."""


def _is_due(block: int) -> bool:
    newest = newest_sync()
    return newest is None or block >= newest + EVERY


def _age(block: ChainBlock) -> dt.timedelta:
    return clock.now() - block.timestamp
