"""Losses of allowance by most miners at once: a sync that they do not answer, or a neuron list without them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from allowance.ledger import present, was_present
from allowance.models import Account, Block, ManifestSync, Miner
from allowance.types import BLOCK_EXPIRY

CHECK_NEURONS = "Check the subnet, and the node, from which the follower reads the neurons."
CHECK_MANIFESTS = "Check that the follower reaches the miners."

FEW = 3
"""The minimum number of miners that leave a class at once for a silence. Fewer are not a fault on our side."""

Counts = Mapping[str, Mapping[str, int]]
"""Executor counts by hotkey and class."""


class Silence(NamedTuple):
    """A manifest sync, made at `block`, at which many miners declare no executors any more.

    `silent` of the `declared` miners that had executors before declare none. `executor_class` is None if this is true
    of all classes together.
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
            f"{self.silent} of {self.declared} miners that had executors of {self.executor_class} declared none at "
            f"block {self.block}: their allowance for it is void."
        )


def silences_in(block: int, before: Counts, answers: Counts) -> list[Silence]:
    """Return one silence for all classes if most miners with executors `before` declare none now.

    Otherwise return one for each class that most of its miners, and at least FEW, leave.
    """
    everything = _silence(block, None, before, answers)
    if 2 * everything.silent > everything.declared:
        return [everything]
    classes = sorted({executor_class for counts in before.values() for executor_class in counts})
    found = [_silence(block, executor_class, before, answers) for executor_class in classes]
    return [silence for silence in found if silence.silent >= FEW and 2 * silence.silent > silence.declared]


def _silence(block: int, executor_class: str | None, before: Counts, answers: Counts) -> Silence:
    def declares(counts: Mapping[str, int]) -> bool:
        return bool(any(counts.values()) if executor_class is None else counts.get(executor_class))

    declared = [name for name, counts in before.items() if declares(counts)]
    silent = sum(not declares(answers.get(name, {})) for name in declared)
    return Silence(block, executor_class, silent, len(declared))


def silences(newest: int) -> list[Silence]:
    """Return the silences that still reduce allowance, the highest percentage first.

    A silence does while a job may use blocks from before its sync. If there is none and no miner declares executors,
    return those of the newest sync that has any.
    """
    syncs = ManifestSync.objects.exclude(silent=[]).order_by("-block", "-pk").values_list("block", "silent")
    rows = list(syncs.filter(block__gt=newest - BLOCK_EXPIRY))
    if not rows and not Account.objects.filter(executors__gt=0).exists():
        rows = list(syncs[:1])
    found = [Silence(block, *silence) for block, silent in rows for silence in silent]
    return sorted(found, key=lambda silence: (-silence.percent, -silence.silent))


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
    """Return the absence in the newest neuron list if it lacks most miners or is empty, else None. Two queries.

    A miner counts if it declares executors and was registered in a block that a job may use.
    """
    lists = Block.objects.filter(neurons__isnull=False).order_by("-number").values_list("number", "neurons__hotkeys")
    in_force: tuple[int, list[str]] | None = lists.first()
    if in_force is None:
        return None
    declaring = Account.objects.filter(executors__gt=0).values("miner")
    gone = kept = 0
    for presence in Miner.objects.filter(hotkey__in=declaring).values_list("presence", flat=True):
        if present(presence):
            kept += 1
        else:
            gone += was_present(presence, newest - BLOCK_EXPIRY)
    found = Absence(in_force[0], gone, gone + kept, len(in_force[1]))
    return found if not found.neurons or gone > kept else None
