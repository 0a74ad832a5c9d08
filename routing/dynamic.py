"""The dynamic settings, as django-constance wants them: a site's settings module puts these two dicts in its own."""

from __future__ import annotations

from typing import Any

MINIMUM_WEI = "DYNAMIC_MINIMUM_COLLATERAL_AMOUNT_WEI"
WINDOW_HOURS = "DYNAMIC_ROUTING_RELIABILITY_WINDOW_HOURS"

MAX_WINDOW_HOURS = 24.0 * 366

CONSTANCE_FIELDS: dict[str, list[Any]] = {
    "wei": ["allowance.amounts.WeiFormField"],
    "hours": ["django.forms.FloatField", {"min_value": 0.0, "max_value": MAX_WINDOW_HOURS}],
}
"""For CONSTANCE_ADDITIONAL_FIELDS: how the admin shows and takes them, and their bounds."""

CONSTANCE_SETTINGS: dict[str, tuple[Any, str, str]] = {
    MINIMUM_WEI: (
        0,
        "The least collateral of a miner that gets a job, as in 0.01 TAO, 1e16 or 10_000 Wei; 0: any.",
        "wei",
    ),
    WINDOW_HOURS: (24.0, "How many hours an incident counts against a miner.", "hours"),
}
"""For CONSTANCE_CONFIG."""
