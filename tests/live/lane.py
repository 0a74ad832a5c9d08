"""What these tests need, and what happens where it is missing: `make test-live` fails, other runs skip the test."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import NoReturn

import pytest

COMPLETE = "CI_LIVE"
"""The environment variable that is set where nothing may be missing."""

MODULES = ("bittensor", "httpx", "pylon_client")


def missing(what: str) -> NoReturn:
    """Skip the test because `what` is missing, or fail it where nothing may be missing."""
    text = f"needs {what}: run make test-live"
    if os.environ.get(COMPLETE):
        pytest.fail(text)
    pytest.skip(text)


def need_extras() -> None:
    """Skip or fail the test if a library of the extras is missing."""
    absent = [name for name in MODULES if not find_spec(name)]
    if absent:
        missing(" and ".join(absent))
