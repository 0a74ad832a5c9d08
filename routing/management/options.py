"""The parsing of options of commands, with errors that name the option."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from allowance.interface import validation
from routing.requests import first_problem


@contextmanager
def named(where: str) -> Iterator[None]:
    """Turn a ValueError, also pydantic's, into one sentence that begins with the wrong place or option."""
    try:
        yield
    except ValueError as error:
        problem = first_problem(error) if isinstance(error, ValidationError) else error
        raise ValueError(f"{where}: {problem}") from None


def moment(option: str, text: str) -> dt.datetime:
    """Return the time in an option. Raises ValueError if it is not a time with a zone."""
    try:
        return validation.timestamp(dt.datetime.fromisoformat(text))
    except ValueError as error:
        raise ValueError(f"{option} {text!r:.80}: {error} Write it as 2026-01-31T12:00:00+00:00.") from None
