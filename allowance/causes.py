"""Causes for a lack of allowance that no single miner can remove: sentences about the chain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from allowance.chain import CHECK_BLOCKS, CHECK_STAKE, newest_block
from allowance.ledger import Balance
from allowance.losses import CHECK_MANIFESTS, CHECK_NEURONS, absence, silences
from allowance.models import Block
from allowance.types import BLOCK_EXPIRY, CHECK_CLASS

MANY = BLOCK_EXPIRY // 10
"""More missing blocks than this are a cause. `routing.watch.measures` uses the same number as a limit."""

NAMED_GAPS = 2
"""Maximum number of gaps that a sentence lists."""


class Earning(NamedTuple):
    """The blocks that a job may use now: which of them are recorded, and which of them earn nothing.

    `recorded` is the number of recorded blocks; in `without_stake` of them our stake share was 0. `gaps` are the runs
    of missing blocks between the recorded ones, each as (first block, last block).
    """

    recorded: int
    without_stake: int
    gaps: list[tuple[int, int]]

    @property
    def missing(self) -> int:
        """The number of missing blocks."""
        return sum(last - first + 1 for first, last in self.gaps)

    @property
    def sentence(self) -> str:
        """A sentence with the number of missing blocks and the first gaps."""
        if not self.gaps:
            return f"None of the last {self.recorded} blocks is missing."
        named = ", ".join(f"{first} to {last}" for first, last in self.gaps[:NAMED_GAPS])
        return (
            f"{self.missing} of the last {self.recorded + self.missing} blocks are missing ({named}"
            f"{', …' if len(self.gaps) > NAMED_GAPS else ''}). "
            "These and the block before each gap earn nothing."
        )


def earning(newest: int) -> Earning:
    """Return the earnings of the newest block and the BLOCK_EXPIRY blocks before it. Two queries."""
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
    executor_class: str | None = None,
    balances: Sequence[Balance] | None = None,
    lacking: Sequence[Balance] = (),
    *,
    of_blocks: bool = True,
) -> tuple[str, ...]:
    """Return the causes for a lack of allowance as sentences.

    With the `balances` of a class, a silence is a cause only if it voided allowance of one of the `lacking` ones. A
    class without executors is then a cause too, unless an absence or a silence is one. If `of_blocks` is False, blocks
    that earn nothing are no cause.
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
                f"Our own stake share was 0 in {blocks.without_stake} of the last {blocks.recorded} recorded blocks. "
                f"Blocks with a stake share of 0 earn nothing. {CHECK_STAKE}"
            )
    voided = None if balances is None else {balance.voided_before for balance in lacking}
    of_silence = [
        f"{silence.sentence} {CHECK_MANIFESTS}"
        for silence in silences(newest)
        if voided is None or (silence.block in voided and silence.executor_class in {None, executor_class})
    ]
    found += of_silence
    if balances is not None and not (lost or of_silence or any(balance.executors for balance in balances)):
        found.append(f"No registered miner declares executors of {executor_class}. {CHECK_CLASS}")
    return tuple(found)
