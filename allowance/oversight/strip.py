"""What became of each block of a window for one account: the same sorting as `audit.sums`, but block by block."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from allowance import ledger
from allowance.ledger import Balance, Window


class BlockState(StrEnum):
    """What became of what a block gave; `NONE` if it gave nothing, or is forgotten."""

    FREE = "free"
    HELD = "held"
    SPENT = "spent"
    VOIDED = "voided"
    NONE = "none"


STATES = tuple(BlockState)


class Run(NamedTuple):
    """Blocks `first` to `last`, all in one state, and the nanoseconds that they gave."""

    state: BlockState
    first: int
    last: int
    ns: int

    @property
    def blocks(self) -> int:
        return self.last - self.first + 1


def strip(balance: Balance, window: Window) -> list[Run]:
    """Return the blocks of the window as runs of equal state, ascending, without gaps.

    A block that was voided is that, whether it was free, held or spent. The window is one that a job may use: of older
    blocks, that they are out of reach is not told.
    """
    numbers = window.low + np.arange(window.ns.size)
    given = ledger.earned_by_block(window, balance)
    given[numbers < balance.base] = 0
    held, spent = (ledger.mask([bits], [balance], window)[0] for bits in (balance.held, balance.spent))
    is_so = {
        BlockState.NONE: given == 0,
        BlockState.VOIDED: numbers < balance.voided_before,
        BlockState.SPENT: spent,
        BlockState.HELD: held,
    }
    states = np.select([*is_so.values()], [STATES.index(state) for state in is_so], STATES.index(BlockState.FREE))
    starts = np.flatnonzero(np.diff(states, prepend=-1))
    ends = np.append(starts[1:], states.size)
    columns = (states[starts], numbers[starts], numbers[ends - 1], np.add.reduceat(given, starts))
    runs = zip(*(column.tolist() for column in columns), strict=True)
    return [Run(STATES[state], *rest) for state, *rest in runs]


class Total(NamedTuple):
    """How many blocks are in a state, and the nanoseconds that they gave."""

    blocks: int = 0
    ns: int = 0


def totals(runs: Iterable[Run]) -> dict[BlockState, Total]:
    """Return the sums of the runs, for every state."""
    sums = dict.fromkeys(BlockState, Total())
    for run in runs:
        sums[run.state] = Total(sums[run.state].blocks + run.blocks, sums[run.state].ns + run.ns)
    return sums
