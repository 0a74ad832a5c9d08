"""How far the benchmark has come: two bars on a terminal, and elsewhere a line for each row, on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tests.benchmarks.team import Advance


class Stages:
    """Tell which row is at hand, and which stage of it."""

    def __init__(self, rows: int) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        columns = TextColumn("{task.description:<50}"), BarColumn(), TimeElapsedColumn()
        self._bars = Progress(*columns, console=self._console, transient=True)
        self._rows = rows
        self._row = 0
        self._whole = self._bars.add_task("", total=rows)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bars meanwhile, if this is a terminal."""
        if self._console.is_terminal:
            with self._bars:
                yield
        else:
            yield

    def next_row(self, name: str) -> None:
        self._row += 1
        self._bars.update(self._whole, completed=self._row - 1, description=f"{self._row} of {self._rows}: {name}")
        if not self._console.is_terminal:
            self._console.print(f"{self._row} of {self._rows}: {name}")

    @contextmanager
    def stage(self, text: str) -> Iterator[Advance]:
        """Show a stage as long as it lasts, and give what moves its bar."""
        task = self._bars.add_task(f"  {text}", total=None)
        try:
            yield lambda done, of: self._bars.update(task, completed=done, total=of)
        finally:
            self._bars.remove_task(task)
