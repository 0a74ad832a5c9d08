"""The fate of each block for an account: free, held, spent, voided or aged out. No other module classifies blocks."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from allowance import ledger
from allowance.ledger import Balance, Nanoseconds, Window
from allowance.types import BLOCK_EXPIRY


class Fate(StrEnum):
    """The fate of the allowance of a block.

    `AGED_OUT`: the block is too old for a job that starts now. `NONE`: the block gave no allowance.
    """

    FREE = "free"
    HELD = "held"
    SPENT = "spent"
    VOIDED = "voided"
    AGED_OUT = "aged out"
    NONE = "none"


FATES = tuple(Fate)


class Run(NamedTuple):
    """Consecutive blocks `first` to `last` of one fate, and the executor-nanoseconds that they gave."""

    fate: Fate
    first: int
    last: int
    ns: int

    @property
    def blocks(self) -> int:
        return self.last - self.first + 1


class Total(NamedTuple):
    """The number of blocks that have a fate, and the executor-nanoseconds that they gave."""

    blocks: int
    ns: int


def runs(balance: Balance, window: Window) -> list[Run]:
    """Return the blocks of the window as runs of equal fate, ascending, without gaps."""
    given, fates = _fates(balance, window)
    numbers = window.low + np.arange(window.ns.size)
    starts = np.flatnonzero(np.diff(fates, prepend=-1))
    ends = np.append(starts[1:], fates.size)
    columns = (fates[starts], numbers[starts], numbers[ends - 1], np.add.reduceat(given, starts))
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [Run(FATES[fate], *rest) for fate, *rest in rows]


def totals(balance: Balance, window: Window) -> dict[Fate, Total]:
    """Return, for each fate, the number of blocks of the window with this fate and the allowance that they gave."""
    given, fates = _fates(balance, window)
    return {fate: Total(int((here := fates == i).sum()), int(given[here].sum())) for i, fate in enumerate(FATES)}


def _fates(balance: Balance, window: Window) -> tuple[Nanoseconds, npt.NDArray[np.int64]]:
    """Return what each block of the window gave (executor-nanoseconds), and its fate as an index of FATES.

    A voided block counts as voided even if a reservation holds or has spent it. A block of an expired reservation
    counts as free only if the balance no longer holds it.
    """
    numbers = window.low + np.arange(window.ns.size)
    given = ledger.earned_by_block(window, balance)
    given[numbers < balance.base] = 0  # the balance has forgotten these blocks
    held, spent = (ledger.mask([bits], [balance], window)[0] for bits in (balance.held, balance.spent))
    rules = {
        Fate.NONE: given == 0,
        Fate.VOIDED: numbers < balance.voided_before,
        Fate.SPENT: spent,
        Fate.HELD: held,
        Fate.AGED_OUT: numbers < (window.newest or 0) - BLOCK_EXPIRY,
    }
    first_that_holds = np.select([*rules.values()], [FATES.index(fate) for fate in rules], FATES.index(Fate.FREE))
    return given, first_that_holds.astype(np.int64)
