"""What one record of the chain takes from most miners at once: a sync that they do not answer, a list without them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

CHECK_NEURONS = "Check the subnet, and the node, from which the follower reads the neurons."
CHECK_MANIFESTS = "Check that the follower reaches the miners."

Answers = Mapping[str, Mapping[str, int]]


class Silence(NamedTuple):
    """How many miners declare nothing in a sync, of so many that declared executors in the sync before.

    `executor_class` is None if they declare nothing in any class.
    """

    block: int
    executor_class: str | None
    silent: int
    declared: int

    @property
    def percent(self) -> float:
        """The share of the silent."""
        return 100 * self.silent / self.declared

    @property
    def sentence(self) -> str:
        """Who was silent, and what they lost."""
        if self.executor_class is None:
            return (
                f"{self.silent} of {self.declared} miners that had answered were silent at block {self.block}: "
                "their allowance is void."
            )
        return (
            f"{self.silent} of {self.declared} miners that had executors of {self.executor_class} declare none since "
            f"block {self.block}: their allowance for it is void."
        )


def silences(block: int, asked: Collection[str], before: Answers, after: Answers) -> list[Silence]:
    """Return in what most of the miners `asked` are silent, that declared executors `before`: in all, or in a class."""
    if (of_all := _silence(block, None, asked, before, after)) is not None:
        return [of_all]
    classes = sorted({executor_class for name in asked for executor_class in before.get(name, {})})
    return [found for each in classes if (found := _silence(block, each, asked, before, after)) is not None]


def _silence(
    block: int, executor_class: str | None, asked: Collection[str], before: Answers, after: Answers
) -> Silence | None:
    def declares(counts: Mapping[str, int]) -> bool:
        return bool(any(counts.values()) if executor_class is None else counts.get(executor_class))

    declared = [name for name in asked if declares(before.get(name, {}))]
    found = Silence(block, executor_class, sum(not declares(after.get(name, {})) for name in declared), len(declared))
    return found if 2 * found.silent > found.declared else None


class Absence(NamedTuple):
    """How many neurons the list of `block` lacks, of those `registered` in an older list; and how many it has."""

    block: int
    gone: int
    registered: int
    listed: int

    @property
    def percent(self) -> float:
        """The share of those that are gone; of an empty list all."""
        return 100 * self.gone / self.registered if self.registered and self.listed else 100

    @property
    def sentence(self) -> str:
        """Who is not registered any more."""
        if not self.listed:
            return f"The neuron list of block {self.block} is empty: no miner is registered."
        return (
            f"{self.gone} of {self.registered} neurons that were registered are not in the neuron list of block "
            f"{self.block}: they have no allowance."
        )


def absence(block: int, before: Iterable[str], after: Collection[str]) -> Absence | None:
    """Return how a list of neurons lacks most of those registered `before`, or is empty; else None."""
    registered = set(before)
    found = Absence(block, len(registered.difference(after)), len(registered), len(after))
    return found if not after or 2 * found.gone > found.registered else None
