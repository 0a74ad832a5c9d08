"""Losses of allowance by most miners at once: a sync that they do not answer, or a neuron list without them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from django.db.models import Max, QuerySet, Sum

from allowance.ledger import Steps, present, was_present
from allowance.models import Account, Block, ManifestSync, Miner
from allowance.types import BLOCK_EXPIRY

CHECK_NEURONS = "Check that the chain follower reads the neurons of the right subnet, and that its node works."
CHECK_MANIFESTS = "Check that the chain follower can reach the miners."

FEW = 3
"""A silence needs at least this number of miners. If fewer lose allowance, the fault is probably not on our side."""

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
    """Return one silence for all classes if most of the asked miners with executors `before` declare none now.

    Otherwise return one for each class of which most miners with executors, and at least FEW, declare fewer now. The
    accounts have the new counts already.
    """
    everything = _silence(block, None, before, answers)
    if 2 * everything.silent > everything.declared:
        # A sync may ask few of many miners. If those are silent, it tells nothing of the others.
        return [everything] if everything.silent >= FEW or everything.silent > _silent_since()[1] else []
    classes = sorted({executor_class for counts in before.values() for executor_class in counts})
    found = [_silence(block, executor_class, before, answers) for executor_class in classes]
    return [silence for silence in found if silence.silent >= FEW and 2 * silence.silent > silence.declared]


def _silence(block: int, executor_class: str | None, before: Counts, answers: Counts) -> Silence:
    def declared(counts: Mapping[str, int]) -> int:
        return any(counts.values()) if executor_class is None else counts.get(executor_class, 0)

    had = {name: number for name, counts in before.items() if (number := declared(counts))}
    silent = sum(declared(answers.get(name, {})) < number for name, number in had.items())
    return Silence(block, executor_class, silent, len(had))


def silences(newest: int) -> list[Silence]:
    """Return the silences that still reduce allowance, the highest percentage first.

    A silence does while a job may use blocks from before its sync. If there is none, return the newest that lasts. One
    of all classes lasts while more registered miners are silent since then than declare executors. One of a class lasts
    while no miner declares any.
    """
    syncs = ManifestSync.objects.exclude(silent=[]).order_by("-block", "-pk").values_list("block", "silent")
    found = _all_of(syncs.filter(block__gt=newest - BLOCK_EXPIRY))
    if not found and (earlier := _all_of(syncs)):
        silent, answering = _silent_since()
        lasting = [s for s in earlier if (silent[s.block] > answering if s.executor_class is None else not answering)]
        found = [silence for silence in lasting if silence.block == lasting[0].block]
    return sorted(found, key=lambda silence: (-silence.percent, -silence.silent))


def _all_of(syncs: Iterable[tuple[int, list[list[Any]]]]) -> list[Silence]:
    return [Silence(block, *silence) for block, silent in syncs for silence in silent]


def _silent_since() -> tuple[Counter[int], int]:
    """Return the number of registered miners that lost all allowance at each block, and of those with executors."""
    accounts = Account.objects.values_list("miner").annotate(Sum("executors"), Max("voided_before"))
    registered = dict(Miner.objects.values_list("hotkey", "presence"))
    silent: Counter[int] = Counter()
    answering = 0
    for miner, executors, voided_before in accounts:
        if present(registered[miner]):
            answering += executors > 0
            silent[voided_before] += not executors
    return silent, answering


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

    A miner counts if it declares executors and was registered in a block that a job may use. If no miner that ever
    declared any is registered, the time does not matter.
    """
    lists = Block.objects.filter(neurons__isnull=False).order_by("-number").values_list("number", "neurons__hotkeys")
    in_force: tuple[int, list[str]] | None = lists.first()
    if in_force is None:
        return None
    accounts = Account.objects.values("miner")
    presences = _presences(accounts.filter(executors__gt=0))
    kept = sum(map(present, presences))
    nobody = presences and not kept and not any(map(present, _presences(accounts)))
    since = 0 if nobody else newest - BLOCK_EXPIRY
    gone = sum(was_present(presence, since) for presence in presences if not present(presence))
    found = Absence(in_force[0], gone, gone + kept, len(in_force[1]))
    return found if not found.neurons or gone > kept else None


def _presences(hotkeys: QuerySet[Account, Any]) -> list[Steps]:
    return list(Miner.objects.filter(hotkey__in=hotkeys).values_list("presence", flat=True))
