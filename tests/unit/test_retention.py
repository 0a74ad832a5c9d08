"""The days for which what is over is kept: one default, wherever it is said."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

from django.conf import settings
from pytest_django import Settings

from routing.dynamic import MAX_WINDOW_HOURS
from routing.upkeep.retention import DEFAULTS, kept

EXAMPLE = Path(__file__).parents[2] / ".env.example"


def test_the_project_s_settings_and_the_example_have_the_defaults() -> None:
    assert {name: getattr(settings, name) for name in DEFAULTS} == DEFAULTS
    assert {name: float(days) for name, days in re.findall(r"#(KEEP_\w+)=(.*)", EXAMPLE.read_text())} == DEFAULTS


def test_a_site_without_the_setting_keeps_things_for_the_default(settings: Settings) -> None:
    settings.KEEP_JOBS_DAYS = 1.5
    del settings.KEEP_BLOCKS_DAYS
    assert kept("KEEP_JOBS_DAYS") == dt.timedelta(hours=36)
    assert kept("KEEP_BLOCKS_DAYS") == dt.timedelta(days=DEFAULTS["KEEP_BLOCKS_DAYS"])


def test_incidents_outlast_the_longest_window() -> None:
    assert DEFAULTS["KEEP_INCIDENTS_DAYS"] * 24 > MAX_WINDOW_HOURS
