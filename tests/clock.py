"""The time that it is in tests whose clock stands still."""

from __future__ import annotations

import datetime as dt

import pytest

NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
TICK = dt.timedelta(microseconds=1)
SECOND, MINUTE, HOUR, DAY = (dt.timedelta(seconds=n) for n in (1, 60, 3600, 86400))

noon = pytest.mark.time_machine(NOW, tick=False)
"""Lets the clock stand still at NOW, before anything else of a test begins."""
