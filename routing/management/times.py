"""The parsing of times in options of commands."""

from __future__ import annotations

import datetime as dt

from allowance.interface import validation


def moment(option: str, text: str) -> dt.datetime:
    """Return the time in an option. Raises ValueError if it is not a time with a zone."""
    try:
        return validation.timestamp(dt.datetime.fromisoformat(text))
    except ValueError as error:
        raise ValueError(f"{option} {text!r:.80}: {error} Write it as 2026-01-31T12:00:00+00:00.") from None
