"""Times as options of commands name them."""

from __future__ import annotations

import datetime as dt

from allowance.interface import validation


def moment(option: str, text: str) -> dt.datetime:
    """Return the time that an option names. Raises ValueError for anything but a time with a zone."""
    try:
        return validation.timestamp(dt.datetime.fromisoformat(text))
    except ValueError as error:
        raise ValueError(f"{option} {text!r:.80}: {error} Write it as 2026-01-31T12:00:00+00:00.") from None
