"""Losses of allowance by most miners at once: a sync that they do not answer, or a neuron list without them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from django.db.models import Max, Q, Sum

from allowance.ledger import Steps, present, value_at, was_present
from allowance.models import Account, Block, ManifestSync, Miner
from allowance.types import BLOCK_EXPIRY

CHECK_NEURONS = "Check that the chain follower reads the right subnet, or forget a wrong list with forget_blocks."
CHECK_MANIFESTS = "Check that the chain follower can reach the miners."

FEW = 3
"""The minimum number of miners for the silence of one class, and for an absence while other miners are left."""

LONGEST = 7 * 7200
"""The blocks of a week. Status and refusals do not name a silence that has lasted for longer."""

Counts = Mapping[str, Mapping[str, int]]
"""Executor counts by hotkey and class."""


class Silence(NamedTuple):
    """A manifest sync, made at `block`, that voids the allowance of many miners.

    `silent` of the `declared` miners that had executors before declare none, if `executor_class` is None. Otherwise
    they declare fewer executors of the class, or none.
    """

    block: int
    executor_class: str | None
    silent: int
    declared: int

    @property
    def percent(self) -> float:
        """The silent miners in percent of the declared ones."""
        return 100 * self.silent / self.declared

    @property
    def sentence(self) -> str:
        """A sentence with the number of silent miners and what they lost."""
        if self.executor_class is None:
            return (
                f"{self.silent} of {self.declared} miners that had answered were silent at block {self.block}: "
                "their allowance is void."
            )
        return (
            f"{self.silent} of {self.declared} miners that had executors of {self.executor_class} declared fewer or "
            f"none at block {self.block}: their allowance for it is void."
        )


def silences_in(block: int, before: Counts, answers: Counts) -> list[Silence]:
    """Return one silence for all classes if most miners with executors `before` declare none now.

    `before` has the counts of the asked miners. Other miners that were registered at the block count as if they had
    answered. Otherwise return one silence for each class of which most miners with executors, and at least FEW, declare
    fewer now.
    """
    unasked: Counter[str | None] = Counter()
    for miner, classes in _declaring(block).items():
        if miner not in before:
            unasked.update([None, *classes])
    everything = _silence(block, None, before, answers)
    if 2 * everything.silent > everything.declared + unasked[None]:
        return [everything]
    classes = sorted({executor_class for counts in before.values() for executor_class in counts})
    found = [_silence(block, executor_class, before, answers) for executor_class in classes]
    return [s for s in found if s.silent >= FEW and 2 * s.silent > s.declared + unasked[s.executor_class]]


def _declaring(block: int) -> dict[str, list[str]]:
    """Return the classes of which miners declare executors, by hotkey, for miners that were registered at `block`."""
    declaring: dict[str, list[str]] = {}
    accounts = Account.objects.filter(executors__gt=0).values_list("miner", "executor_class", "miner__presence")
    for miner, executor_class, presence in accounts:
        if value_at(presence, block):
            declaring.setdefault(miner, []).append(executor_class)
    return declaring


def _silence(block: int, executor_class: str | None, before: Counts, answers: Counts) -> Silence:
    def declared(counts: Mapping[str, int]) -> int:
        return any(counts.values()) if executor_class is None else counts.get(executor_class, 0)

    had = {name: number for name, counts in before.items() if (number := declared(counts))}
    silent = sum(declared(answers.get(name, {})) < number for name, number in had.items())
    return Silence(block, executor_class, silent, len(had))


def silences(newest: int) -> list[Silence]:
    """Return the silences that still reduce allowance, the highest percentage first.

    A silence reduces allowance while a job may use blocks from before its sync. Of the older silences, up to LONGEST
    blocks, the newest that lasts is returned too. A silence of all classes lasts while more registered miners are
    silent since its sync than declare executors. If no registered miner declares any executors, the newest silence
    lasts, even if it is a silence of one class.
    """
    low = newest - BLOCK_EXPIRY
    syncs = ManifestSync.objects.filter(block__gt=newest - LONGEST).exclude(silent=[])
    rows = syncs.order_by("-block", "-pk").values_list("block", "silent")
    known = [Silence(block, *silence) for block, silent in rows for silence in silent]
    found = [silence for silence in known if silence.block > low]
    if older := known[len(found) :]:
        silent, answering = _silent_since(newest), _declaring(newest)
        if found or answering:
            older = [s for s in older if s.executor_class is None and silent[s.block] > len(answering)]
        found += [silence for silence in older if silence.block == older[0].block]
    return sorted(found, key=lambda silence: (-silence.percent, -silence.silent))


def _silent_since(block: int) -> Counter[int]:
    """Return how many miners that were registered at `block` lost all allowance, by the block of their last loss."""
    silent: Counter[int] = Counter()
    accounts = Account.objects.values_list("miner", "miner__presence")
    for _, presence, executors, voided_before in accounts.annotate(Sum("executors"), Max("voided_before")):
        if value_at(presence, block) and not executors:
            silent[voided_before] += 1
    return silent


class Absence(NamedTuple):
    """A neuron list, of `block`, without many miners that declare executors and were registered before.

    `gone` of these `miners` are not in the list. The list has `neurons` hotkeys.
    """

    block: int
    gone: int
    miners: int
    neurons: int

    @property
    def percent(self) -> float:
        """The missing miners in percent; 100 if `neurons` or `miners` is 0."""
        return 100 * self.gone / self.miners if self.neurons and self.miners else 100

    @property
    def sentence(self) -> str:
        """A sentence with the number of miners that are not registered any more."""
        if not self.neurons:
            return f"The neuron list of block {self.block} is empty: no miner is registered."
        return (
            f"{self.gone} of {self.miners} miners with executors are not in the neuron list of block {self.block}: "
            "they have no allowance."
        )


def absence(newest: int) -> Absence | None:
    """Return the absence in the newest neuron list if it lacks most miners or is empty, else None.

    A miner counts if it declares executors, or did in a block that a job may use, and was registered in such a block.
    If no miner that ever declared executors is registered, all of them count. Fewer than FEW missing
    miners are an absence only if none is left.
    """
    lists = Block.objects.filter(neurons__isnull=False).order_by("-number").values_list("number", "neurons__hotkeys")
    in_force: tuple[int, list[str]] | None = lists.first()
    if in_force is None:
        return None
    low = newest - BLOCK_EXPIRY
    presences = _presences(Q(executors__gt=0) | Q(voided_before__gt=low))
    kept = sum(map(present, presences))
    gone = sum(was_present(presence, low) for presence in presences if not present(presence))
    if not kept and not any(map(present, everybody := _presences(Q()))):
        gone = len(everybody)
    found = Absence(in_force[0], gone, gone + kept, len(in_force[1]))
    lacking = gone > kept and (gone >= FEW or not kept)
    return found if lacking or not found.neurons else None


def _presences(of: Q) -> list[Steps]:
    """Return the presences of the miners that have such an account."""
    miners = Miner.objects.filter(hotkey__in=Account.objects.filter(of).values("miner"))
    return list(miners.values_list("presence", flat=True))
