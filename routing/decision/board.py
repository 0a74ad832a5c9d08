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
        ("wei", "O"),
    ]
)
"""The columns. The first three are the order of a standing, so shares and free amounts are negative."""


class Line(NamedTuple):
    """What a decision knows of a miner, except its incidents. `ongoing` is the number of its jobs."""

    standing: Standing
    reachable: bool
    ongoing: int

    @property
    def hotkey(self) -> str:
        return self.standing.balance.hotkey

    @property
    def columns(self) -> tuple[object, ...]:
        balance = self.standing.balance
        return *self.standing.order[:3], balance.executors, self.ongoing, self.reachable, balance.wei


@dataclass(frozen=True, slots=True, eq=False)
class Board:
    """The registered miners of a class, by slot. Slots are numbers from 0, in the order of the hotkeys.

    A board never changes. `after` returns another one.
    """

    slots: Mapping[str, int]
    lines: list[Line]
    columns: npt.NDArray[Any]

    @classmethod
    def of(cls, lines: Iterable[Line]) -> Board:
        """Return the board of some lines."""
        ordered = sorted(lines, key=lambda line: line.hotkey)
        slots = {line.hotkey: slot for slot, line in enumerate(ordered)}
        return cls(slots, ordered, np.array([line.columns for line in ordered], dtype=COLUMNS))

    def after(self, changed: Iterable[Line]) -> Board:
        """Return the board with other lines for some of its miners."""
        lines, columns = self.lines.copy(), self.columns.copy()
        for line in changed:
            slot = self.slots[line.hotkey]
            lines[slot], columns[slot] = line, line.columns
        return Board(self.slots, lines, columns)
