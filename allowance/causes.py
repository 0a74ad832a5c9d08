"""What keeps miners from having allowance that no miner can help: facts about the chain, in sentences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from django.db.models import F

from allowance.chain import CHECK_BLOCKS, CHECK_MANIFESTS, CHECK_NEURONS, CHECK_STAKE, NO_NEURONS, newest_block
from allowance.ledger import Balance
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


def block_without_neurons() -> int | None:
    """Return the block whose list of neurons is in force, if that list is empty."""
    listed = Block.objects.filter(neurons__isnull=False).order_by("-number").values_list("number", "neurons__digest")
    newest = listed.first()
    return newest[0] if newest and newest[1] == NO_NEURONS else None


def silence(newest: int) -> ManifestSync | None:
    """Return the newest sync in which most miners were silent, if miners still lack what it voided.

    They lack it while a job may use blocks from before that sync, and while no miner has answered since.
    """
    syncs = ManifestSync.objects.order_by("-block", "-pk")
    silent = syncs.filter(silent__gt=F("answered") - F("silent")).defer("axons", "executors").first()
    if silent is None or silent.block > newest - BLOCK_EXPIRY:
        return silent
    answers = syncs.values_list("executors", flat=True)[0]
    return None if any(any(counts.values()) for counts in answers.values()) else silent


def causes(balances: Iterable[Balance] | None = None) -> tuple[str, ...]:
    """Return the causes for a lack of allowance; with `balances`, only a silence that voided what one of them had."""
    newest, found = newest_block(), []
    if (block := block_without_neurons()) is not None:
        found.append(f"The neuron list of block {block} is empty: no miner is registered. {CHECK_NEURONS}")
    blocks = earning(newest)
    if blocks.missing > MANY:
        found.append(f"{blocks.sentence} {CHECK_BLOCKS}")
    if blocks.without_stake:
        found.append(
            f"Our own stake share was 0 in {blocks.without_stake} of the last {blocks.recorded} blocks, "
            f"which earn nothing. {CHECK_STAKE}"
        )
    sync = silence(newest)
    if sync and (balances is None or any(balance.voided_before == sync.block for balance in balances)):
        found.append(f"{sync.silence} {CHECK_MANIFESTS}")
    return tuple(found)
