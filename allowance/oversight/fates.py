"""The fate of each block that an account earned in: free, held, spent, voided or aged out. The one classification."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from allowance import ledger
from allowance.ledger import Balance, Nanoseconds, Window
from allowance.types import BLOCK_EXPIRY


class Fate(StrEnum):
    """What became of what a block gave. `AGED_OUT`: no job that starts now may use it. `NONE`: it gave nothing."""

    FREE = "free"
    HELD = "held"
    SPENT = "spent"
    VOIDED = "voided"
    AGED_OUT = "aged out"
    NONE = "none"


FATES = tuple(Fate)


class Run(NamedTuple):
    """Blocks `first` to `last`, all of one fate, and the nanoseconds that they gave."""

    fate: Fate
    first: int
    last: int
    ns: int

    @property
    def blocks(self) -> int:
        return self.last - self.first + 1


class Total(NamedTuple):
    """How many blocks have a fate, and the nanoseconds that they gave."""

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
    """Return how many blocks of the window have each fate, and what they gave."""
    given, fates = _fates(balance, window)
    return {fate: Total(int((here := fates == i).sum()), int(given[here].sum())) for i, fate in enumerate(FATES)}


def _fates(balance: Balance, window: Window) -> tuple[Nanoseconds, npt.NDArray[np.int64]]:
    """Return what each block gave, and its fate by number. A voided block is that, whoever holds or has spent it.

    A block that is held by a reservation that has expired is free: its balance must say so.
    """
    numbers = window.low + np.arange(window.ns.size)
    given = ledger.earned_by_block(window, balance)
    given[numbers < balance.base] = 0  # they are forgotten
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
