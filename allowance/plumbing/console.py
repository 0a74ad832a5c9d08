"""Output for people: the console, tables and progress of commands, and the format of times."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from typing import IO, Any

from django.utils import timezone
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

WIDE = 140
"""The width, in columns, of a table with full hotkeys."""


def wide_console(file: IO[str] | Any) -> Console:
    """Return a console as wide as the terminal. Without a terminal it is wide enough for every table."""
    console = Console(file=file, highlight=False)
    return console if console.is_terminal else Console(file=file, highlight=False, width=2 * WIDE)


def plain_table(*columns: str, numbers: Collection[str] = (), header_style: str = "") -> Table:
    """Return a table without lines. The columns in `numbers` are aligned right and never wrapped."""
    table = Table(box=None, pad_edge=False, header_style=header_style)
    for column in columns:
        is_number = column in numbers
        table.add_column(column, justify="right" if is_number else "left", no_wrap=is_number)
    return table


def progress_bar(*columns: ProgressColumn) -> Progress:
    """Return the progress on standard error. It is disabled unless that is a terminal.

    Without `columns` it shows the description of a task, a bar, the number of steps done, and the time.
    """
    terminal = Console(stderr=True)
    usual = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*(columns or usual), console=terminal, disable=not terminal.is_terminal)


def to_the_second(time: dt.datetime) -> str:
    """Return a time as text in the current time zone, with seconds, which the admin's own format leaves out."""
    return f"{timezone.localtime(time):%Y-%m-%d %H:%M:%S %Z}"
