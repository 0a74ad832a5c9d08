"""The dynamic settings, as django-constance wants them, and how a site's settings module takes them in."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

MINIMUM_WEI = "DYNAMIC_MINIMUM_COLLATERAL_AMOUNT_WEI"
WINDOW_HOURS = "DYNAMIC_ROUTING_RELIABILITY_WINDOW_HOURS"

MAX_WINDOW_HOURS = 24.0 * 366

CONSTANCE_FIELDS: dict[str, list[Any]] = {
    "routing_wei": ["allowance.amounts.WeiFormField", {}],
    "routing_hours": ["django.forms.FloatField", {"min_value": 0.0, "max_value": MAX_WINDOW_HOURS}],
}
"""For CONSTANCE_ADDITIONAL_FIELDS: how the admin shows and takes them, and their bounds."""

CONSTANCE_SETTINGS: dict[str, tuple[Any, str, str]] = {
    MINIMUM_WEI: (
        0,
        "The least collateral of a miner that gets a job, as in 0.01 TAO, 1e16 or 10_000 Wei; 0: any.",
        "routing_wei",
    ),
    WINDOW_HOURS: (24.0, "How many hours an incident counts against a miner.", "routing_hours"),
}
"""For CONSTANCE_CONFIG."""

APPS = ("allowance", "receipts", "routing", "channels", "constance")
"""What INSTALLED_APPS must have."""

FIELDSET = "Miner router"
"""The heading of the dynamic settings on the page of a site that groups its own."""


def install(settings: dict[str, Any]) -> None:
    """Add the apps and their dynamic settings to those of a site: call `install(globals())` at the end of its module.

    What the site has stays as it is: an app that is listed is not listed again, and of the settings for constance (the
    backend, the dynamic settings, their fields and fieldsets) only what is missing is added.
    """
    listed = list(settings.get("INSTALLED_APPS", ()))
    settings["INSTALLED_APPS"] = [*listed, *(app for app in APPS if not _is_listed(app, listed))]
    settings.setdefault("CONSTANCE_BACKEND", "constance.backends.database.DatabaseBackend")
    settings["CONSTANCE_CONFIG"] = {**CONSTANCE_SETTINGS, **settings.get("CONSTANCE_CONFIG", {})}
    # Constance makes objects of the fields in place; these stay as they are.
    own = deepcopy(CONSTANCE_FIELDS)
    settings["CONSTANCE_ADDITIONAL_FIELDS"] = {**own, **settings.get("CONSTANCE_ADDITIONAL_FIELDS", {})}
    groups = settings.get("CONSTANCE_CONFIG_FIELDSETS")
    if groups and (missing := tuple(key for key in CONSTANCE_SETTINGS if key not in _grouped(groups))):
        ours = ((FIELDSET, missing),)
        settings["CONSTANCE_CONFIG_FIELDSETS"] = (
            {**groups, **dict(ours)} if isinstance(groups, Mapping) else (*groups, *ours)
        )


def _is_listed(app: str, listed: list[str]) -> bool:
    """Return whether INSTALLED_APPS has an app, by its name or by the path of its configuration."""
    return any(entry == app or entry.startswith(f"{app}.apps.") for entry in listed)


def _grouped(groups: Any) -> set[str]:
    """Return the settings that constance's fieldsets show. A collapsible one has them under `fields`."""
    shown = dict(groups).values()
    return {key for group in shown for key in (group["fields"] if isinstance(group, Mapping) else group)}
