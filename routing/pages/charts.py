"""The data of charts. The browser draws a chart, and a table beside it shows the same numbers as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Number = int | float


class Row(NamedTuple):
    """A row of the table: a label, its number in each series, and its link."""

    label: str
    numbers: list[Number]
    link: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A number for each label or, with several series, for each label and series.

    `columns` stand side by side over time, `bars` lie below each other, `ring` shows the shares of one series. Several
    series are stacked. Templates include `routing/chart.html` with a chart.
    """

    id: str
    title: str
    kind: Literal["columns", "bars", "ring"]
    labels: Sequence[str]
    series: Mapping[str, Sequence[Number]]
    links: Sequence[str] = ()
    """The link of each label; empty if there are no links."""

    @property
    def data(self) -> dict[str, object]:
        """The data for the browser."""
        series = [{"name": name, "values": list(values)} for name, values in self.series.items()]
        return {"kind": self.kind, "labels": list(self.labels), "series": series, "links": list(self.links)}

    @property
    def rows(self) -> list[Row]:
        """The table's rows."""
        links = self.links or [""] * len(self.labels)
        numbers = [list(values) for values in zip(*self.series.values(), strict=True)]
        return [Row(*row) for row in zip(self.labels, numbers, links, strict=True)]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(any(values) for values in self.series.values())
