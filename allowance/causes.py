"""What keeps miners from having allowance that no miner can help: facts about the chain, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from allowance.chain import CHECK_BLOCKS, CHECK_STAKE, newest_block
from allowance.ledger import Balance
from allowance.losses import CHECK_MANIFESTS, CHECK_NEURONS, absence, silences
from allowance.models import Block
from allowance.types import BLOCK_EXPIRY, CHECK_CLASS

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


def causes(
    executor_class: str | None = None, balances: Sequence[Balance] | None = None, *, of_blocks: bool = True
) -> tuple[str, ...]:
    """Return the causes for a lack of allowance, in sentences.

    With the `balances` of a class: of the silences only those that voided what one of them had, and whether nobody has
    executors. `of_blocks` says whether blocks that earn nothing are a cause.
    """
    newest, found = newest_block(), []
    if lost := absence(newest):
        found.append(f"{lost.sentence} {CHECK_NEURONS}")
    if of_blocks:
        blocks = earning(newest)
        if blocks.missing > MANY:
            found.append(f"{blocks.sentence} {CHECK_BLOCKS}")
        if 10 * blocks.without_stake > blocks.recorded:
            found.append(
                f"Our own stake share was 0 in {blocks.without_stake} of the last {blocks.recorded} blocks, "
                f"which earn nothing. {CHECK_STAKE}"
            )
    voided = None if balances is None else {balance.voided_before for balance in balances}
    told = [
        f"{silence.sentence} {CHECK_MANIFESTS}"
        for silence in silences(newest)
        if voided is None or (silence.block in voided and silence.executor_class in {None, executor_class})
    ]
    found += told
    if balances is not None and not (lost or told or any(balance.executors for balance in balances)):
        found.append(f"No registered miner declares executors of {executor_class}. {CHECK_CLASS}")
    return tuple(found)
