"""How long what is over is kept: a setting for each kind, in days."""

from __future__ import annotations

import datetime as dt

from django.conf import settings

from allowance.interface import HOLD_MARGIN, MAX_JOB_RUN_TIME

DEFAULTS: dict[str, float] = {
    "KEEP_DECISIONS_DAYS": 30,
    "KEEP_CANDIDATES_DAYS": 7,
    "KEEP_JOBS_DAYS": 30,
    "KEEP_INCIDENTS_DAYS": 400,
    "KEEP_RECEIPTS_DAYS": 90,
    "KEEP_RESERVATIONS_DAYS": 90,
    "KEEP_BLOCKS_DAYS": 7,
    "KEEP_CHECKS_DAYS": 400,
    "KEEP_TOKENS_DAYS": 90,
}
"""Decisions are many, and those with their candidates large, some 30 kB each; both are asked about within days. Jobs,
with the signatures that they came with, stay for as long as somebody might ask for one again. Incidents outlast the
longest window that can be set, so that a longer one finds them. Receipts and reservations are what is settled with
miners, a quarter at a time. The ledger needs blocks for some four hours, and reads them all when it is checked. Checks
of the ledger, and tokens that are over, are few."""

MOST_DAYS = 36_500

SLACK = dt.timedelta(seconds=MAX_JOB_RUN_TIME) + HOLD_MARGIN
"""What was of use to somebody so long ago is kept, whatever the settings say: a job is on its way for no longer, and no
host's clock is further behind ours."""


def kept(name: str) -> dt.timedelta:
    """Return how long the setting of that name, or its default, says to keep what is over."""
    days: float = getattr(settings, name, DEFAULTS[name])
    return dt.timedelta(days=days)
