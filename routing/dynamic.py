"""The dynamic settings, as django-constance wants them: a site's settings module puts these two dicts in its own."""

from __future__ import annotations

from typing import Any

from allowance.types import MAX_WEI

MINIMUM_WEI = "DYNAMIC_MINIMUM_COLLATERAL_AMOUNT_WEI"
WINDOW_HOURS = "DYNAMIC_ROUTING_RELIABILITY_WINDOW_HOURS"

MAX_WINDOW_HOURS = 24.0 * 366

CONSTANCE_FIELDS: dict[str, list[Any]] = {
    "wei": ["django.forms.IntegerField", {"min_value": 0, "max_value": MAX_WEI, "widget": "django.forms.TextInput"}],
    "hours": ["django.forms.FloatField", {"min_value": 0.0, "max_value": MAX_WINDOW_HOURS}],
}
"""For CONSTANCE_ADDITIONAL_FIELDS: the admin's bounds."""

CONSTANCE_SETTINGS: dict[str, tuple[Any, str, str]] = {
    MINIMUM_WEI: (0, "The least collateral, in Wei, of a miner that gets a job; 0: any.", "wei"),
    WINDOW_HOURS: (24.0, "How many hours an incident counts against a miner.", "hours"),
}
"""For CONSTANCE_CONFIG."""
