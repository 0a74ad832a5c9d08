"""What people read: where commands print tables, and how times are written."""

from __future__ import annotations

import datetime as dt
from typing import IO, Any

from django.utils import timezone
from rich.console import Console

WIDE = 140
"""Columns that a table with whole hotkeys takes."""


def wide_console(file: IO[str] | Any) -> Console:
    """Return a console that folds to the terminal's width, and that is wide enough where there is none."""
    console = Console(file=file, highlight=False)
    return console if console.is_terminal else Console(file=file, highlight=False, width=2 * WIDE)


def to_the_second(time: dt.datetime) -> str:
    """Return a time as readable as the admin's own format, which stops at minutes, but with the seconds."""
    return f"{timezone.localtime(time):%Y-%m-%d %H:%M:%S %Z}"
