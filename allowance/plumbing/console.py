"""Output for people: the console for the tables of commands, and the format of times."""

from __future__ import annotations

import datetime as dt
from typing import IO, Any

from django.utils import timezone
from rich.console import Console

WIDE = 140
"""The width, in columns, of a table with full hotkeys."""


def wide_console(file: IO[str] | Any) -> Console:
    """Return a console as wide as the terminal. Without a terminal it is wide enough for every table."""
    console = Console(file=file, highlight=False)
    return console if console.is_terminal else Console(file=file, highlight=False, width=2 * WIDE)


def to_the_second(time: dt.datetime) -> str:
    """Return a time as text in the current time zone, with seconds, which the admin's own format leaves out."""
    return f"{timezone.localtime(time):%Y-%m-%d %H:%M:%S %Z}"
