"""The miners of a class as columns, so that all of them can be judged and ranked at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from allowance.interface import Standing

COLUMNS = np.dtype(
    [
        ("first", "f8"),
        ("share", "f8"),
        ("free", "i8"),
        ("executors", "i8"),
        ("ongoing", "i8"),
        ("reachable", "?"),
    ]
)
"""The columns of a board, except the collateral.

The first three come from `Standing.order`, which negates the share and the free amount, so that low is better.
"""


class Line(NamedTuple):
    """A miner on the board, with all that a decision needs except its incidents. `ongoing` is how many jobs it has."""

    standing: Standing
    reachable: bool
    ongoing: int

    @property
    def hotkey(self) -> str:
        return self.standing.balance.hotkey

    @property
    def columns(self) -> tuple[object, ...]:
        balance = self.standing.balance
        return *self.standing.order[:3], balance.executors, self.ongoing, self.reachable


@dataclass(frozen=True, slots=True, eq=False)
class Board:
    """The registered miners of a class, by slot. Slots are numbers from 0, in the order of the hotkeys.

    A board never changes. `after` returns another one. `wei` has the collateral as Python ints, because it can exceed
    64 bits.
    """

    slots: Mapping[str, int]
    lines: list[Line]
    columns: npt.NDArray[Any]
    wei: npt.NDArray[Any]

    @classmethod
    def of(cls, lines: Iterable[Line]) -> Board:
        """Return the board of some lines."""
        ordered = sorted(lines, key=lambda line: line.hotkey)
        slots = {line.hotkey: slot for slot, line in enumerate(ordered)}
        columns = np.array([line.columns for line in ordered], dtype=COLUMNS)
        wei = np.array([line.standing.balance.wei for line in ordered], dtype=object)
        return cls(slots, ordered, columns, wei)

    def line(self, hotkey: str) -> Line | None:
        """Return the line of a miner, or None if it is not registered."""
        slot = self.slots.get(hotkey)
        return None if slot is None else self.lines[slot]

    def after(self, changed: Iterable[Line]) -> Board:
        """Return the board with other lines for some of its miners."""
        lines, columns, wei = self.lines.copy(), self.columns.copy(), self.wei.copy()
        for line in changed:
            slot = self.slots[line.hotkey]
            lines[slot], columns[slot], wei[slot] = line, line.columns, line.standing.balance.wei
        return Board(self.slots, lines, columns, wei)


NO_BOARD = Board.of(())
"""The board before the miners of a class are known."""
