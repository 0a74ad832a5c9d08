"""Where commands print tables."""

from __future__ import annotations

from typing import IO, Any

from rich.console import Console

WIDE = 140
"""Columns that a table with whole hotkeys takes."""


def wide_console(file: IO[str] | Any) -> Console:
    """Return a console that folds to the terminal's width, and that is wide enough where there is none."""
    console = Console(file=file, highlight=False)
    return console if console.is_terminal else Console(file=file, highlight=False, width=2 * WIDE)
