"""What keeps miners from having allowance that no miner can help: facts about the chain, in sentences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from allowance.chain import CHECK_BLOCKS, CHECK_STAKE, newest_block
from allowance.ledger import Balance
from allowance.losses import CHECK_MANIFESTS, CHECK_NEURONS, Absence, Silence, absence
from allowance.models import Block, ManifestSync
from allowance.types import BLOCK_EXPIRY

MANY = BLOCK_EXPIRY // 10
"""So many blocks that earn nothing are felt."""

NAMED_GAPS = 2
"""How many gaps are named."""


class Earning(NamedTuple):
    """How the blocks earn that a job may use now: how many are recorded, in how many of those our stake share was 0.

    `gaps` are the runs of missing blocks between the recorded ones, each as its first and last block.
    """

    recorded: int
    without_stake: int
    gaps: list[tuple[int, int]]

    @property
    def missing(self) -> int:
        """How many blocks are missing."""
        return sum(last - first + 1 for first, last in self.gaps)

    @property
    def sentence(self) -> str:
        """How many blocks are missing, and which of them first."""
        if not self.gaps:
            return f"None of the last {self.recorded} blocks is missing."
        named = ", ".join(f"{first} to {last}" for first, last in self.gaps[:NAMED_GAPS])
        return (
            f"{self.missing} of the last {self.recorded + self.missing} blocks are missing, {named}"
            f"{', …' if len(self.gaps) > NAMED_GAPS else ''}: they earn nothing, nor does the block before each gap."
        )


def earning(newest: int) -> Earning:
    """Return how the last BLOCK_EXPIRY blocks and the newest one earn. Two queries."""
    low = newest - BLOCK_EXPIRY
    blocks = Block.objects.filter(number__gte=low).order_by("number").values_list("number", "stake_share")
    shares = dict(blocks)
    gaps, expected = [], low if Block.objects.filter(number__lt=low).exists() else min(shares, default=0)
    for number in shares:
        if number > expected:
            gaps.append((expected, number - 1))
        expected = number + 1
    return Earning(len(shares), sum(share == 0 for share in shares.values()), gaps)


def lost_neurons(newest: int) -> Absence | None:
    """Return how the list of neurons in force is empty, or lacks most neurons that a job's oldest block had."""
    lists = Block.objects.filter(neurons__isnull=False).order_by("-number").values_list("number", "neurons__hotkeys")
    in_force = lists.first()
    if in_force is None:
        return None
    older = lists.filter(number__lte=newest - BLOCK_EXPIRY).first() or lists.last()
    return absence(in_force[0], older[1] if older else (), in_force[1])


def silences(newest: int) -> list[Silence]:
    """Return the silences from which miners suffer, the newest of each class.

    They do while a job may use blocks from before the sync, and while nobody has declared executors since.
    """
    syncs = ManifestSync.objects.order_by("-block", "-pk")
    found: dict[str | None, Silence] = {}
    lasting: dict[str | None, Silence] = {}
    for sync in syncs.exclude(silent=[]).defer("axons", "executors"):
        for silence in sync.silences:
            (found if sync.block > newest - BLOCK_EXPIRY else lasting).setdefault(silence.executor_class, silence)
    if lasting:
        answers = syncs.values_list("executors", flat=True)[0]
        declared: set[str | None] = {each for counts in answers.values() for each, n in counts.items() if n}
        declared |= {None} if declared else set()
        found = {each: silence for each, silence in lasting.items() if each not in declared} | found
    return list(found.values())


def causes(balances: Iterable[Balance] | None = None) -> tuple[str, ...]:
    """Return the causes for a lack of allowance; with `balances`, only silences that voided what one of them had."""
    newest, found = newest_block(), []
    if lost := lost_neurons(newest):
        found.append(f"{lost.sentence} {CHECK_NEURONS}")
    blocks = earning(newest)
    if blocks.missing > MANY:
        found.append(f"{blocks.sentence} {CHECK_BLOCKS}")
    if blocks.without_stake:
        found.append(
            f"Our own stake share was 0 in {blocks.without_stake} of the last {blocks.recorded} blocks, "
            f"which earn nothing. {CHECK_STAKE}"
        )
    voided = None if balances is None else {(b.voided_before, c) for b in balances for c in (b.executor_class, None)}
    found += [
        f"{silence.sentence} {CHECK_MANIFESTS}"
        for silence in silences(newest)
        if voided is None or (silence.block, silence.executor_class) in voided
    ]
    return tuple(found)
