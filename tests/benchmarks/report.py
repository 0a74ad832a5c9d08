"""The figures, for people and for programs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from tests.benchmarks.bench import Times


@dataclass(frozen=True)
class Goal:
    """What a ratio should be, or the figure itself where there is none."""

    sign: str
    bound: float

    def met(self, value: float) -> bool:
        return value <= self.bound if self.sign == "≤" else value >= self.bound


def at_most(bound: float) -> Goal:
    return Goal("≤", bound)


def at_least(bound: float) -> Goal:
    return Goal("≥", bound)


@dataclass(frozen=True)
class Line:
    """A figure of ours and, where there is one, that which it is measured `against`.

    `ours` is None if it could not be measured here. The note says why.
    """

    name: str
    ours: float | None
    unit: str
    goal: Goal | None
    against: str = ""
    other: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return None if self.other is None or self.ours is None else self.ours / self.other

    @property
    def met(self) -> bool | None:
        value = self.ours if self.ratio is None else self.ratio
        return None if self.goal is None or value is None else self.goal.met(value)

    @property
    def goal_text(self) -> str:
        if self.goal is None:
            return ""
        return f"{self.goal.sign} {self.goal.bound:g} {'×' if self.other is not None else self.unit}".rstrip()


@dataclass(frozen=True)
class Report:
    """All that one run found out, `lines` by the key of their row.

    `loads` has the machine's load before each row: the number of processes that wanted to run, over a minute. `failed`
    are the rows that could not be measured.
    """

    machine: dict[str, Any]
    scale: str
    rounds: int
    seconds: float
    statements_per_pick: int | None
    loads: dict[str, float]
    lines: list[tuple[str, Line]]
    times: list[Times]
    failed: list[str]

    def as_json(self) -> str:
        rows = [
            {
                "row": key,
                "load": self.loads[key],
                "name": line.name,
                "ours": _rounded(line.ours),
                "other": _rounded(line.other),
                "against": line.against,
                "unit": line.unit,
                "ratio": _rounded(line.ratio),
                "goal": line.goal_text,
                "met": line.met,
                "note": line.note,
            }
            for key, line in self.lines
        ]
        times = [{k: _rounded(v) if k in {"p50", "p95"} else v for k, v in asdict(t).items()} for t in self.times]
        return json.dumps({**{k: v for k, v in vars(self).items() if k != "lines"}, "rows": rows, "times": times})

    def show(self, console: Console) -> None:
        """Print the rows, then how long everything took, then where and how it was measured."""
        console.print(self._rows())
        if self.failed:
            console.print(f"Failed, see above: {', '.join(self.failed)}", style="bold red")
        if self.times:
            console.print()
            console.print(self._times())
        machine = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        statements = f"A pick makes {self.statements_per_pick} SQL statements. " if self.statements_per_pick else ""
        console.print(
            f"\n{statements}Measured in {self.seconds:.0f} s, {self.rounds} rounds; {machine}", soft_wrap=True
        )

    def _rows(self) -> Table:
        table = _table("row", ">load", "what", ">ours", "against", ">its figure", ">ratio", "goal", "met")
        for key, line in self.lines:
            table.add_row(
                key,
                f"{self.loads[key]:.1f}",
                line.name + (f" ({line.note})" if line.note else ""),
                "" if line.ours is None else _figure(line.ours, line.unit),
                line.against,
                "" if line.other is None else _figure(line.other, line.unit),
                "" if line.ratio is None else f"{line.ratio:.2f}",
                line.goal_text,
                {None: Text(""), True: Text("✓", "bold green"), False: Text("✗", "bold red")}[line.met],
            )
        return table

    def _times(self) -> Table:
        table = _table("row", "what", ">p50 ms", ">p95 ms", ">times")
        for t in self.times:
            table.add_row(t.row, t.what, f"{t.p50:.2f}", f"{t.p95:.2f}", str(t.count))
        return table


def _table(*columns: str) -> Table:
    """Return an empty table; the names of columns with numbers begin with >."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left")
    return table


def _figure(value: float, unit: str) -> str:
    text = f"{value:.2f}" if unit in {"ms", "s", "MB"} else f"{value:.0f}"
    return text + (unit if unit.startswith("/") else f" {unit}".rstrip())


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
