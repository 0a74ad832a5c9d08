"""The dynamic settings in the form of django-constance, and their installation in a site's settings."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

MINIMUM_WEI = "DYNAMIC_MINIMUM_COLLATERAL_AMOUNT_WEI"
WINDOW_HOURS = "DYNAMIC_ROUTING_RELIABILITY_WINDOW_HOURS"
UNUSED_BLOCKS = "DYNAMIC_ROUTING_UNUSED_BLOCKS"
EXECUTOR_LIMITS = "DYNAMIC_MINER_MAX_EXECUTORS_PER_CLASS"

MAX_WINDOW_HOURS = 24.0 * 366

MAX_UNUSED_BLOCKS = 722
"""BLOCK_EXPIRY of the ledger: all blocks that a job may use, except the newest. A site's settings import this module,
and so it can't import the ledger."""

DATABASE_BACKEND = "constance.backends.database.DatabaseBackend"
"""The backend of constance that keeps the dynamic settings in a table. A pick reads them with the ledger."""

CONSTANCE_FIELDS: dict[str, list[Any]] = {
    "routing_wei": ["allowance.amounts.WeiFormField", {}],
    "routing_hours": ["django.forms.FloatField", {"min_value": 0.0, "max_value": MAX_WINDOW_HOURS}],
    "routing_limits": ["allowance.follow.limits.LimitsFormField", {}],
    "routing_blocks": ["django.forms.IntegerField", {"min_value": 0, "max_value": MAX_UNUSED_BLOCKS}],
}
"""Entries of CONSTANCE_ADDITIONAL_FIELDS: the form fields of the dynamic settings, with their bounds."""

CONSTANCE_SETTINGS: dict[str, tuple[Any, str, str]] = {
    MINIMUM_WEI: (
        0,
        "The minimum collateral of a miner that gets a job, such as 0.01 TAO, 1e16 or 10_000 Wei. 0 means no minimum.",
        "routing_wei",
    ),
    WINDOW_HOURS: (24.0, "How many hours an incident counts against a miner.", "routing_hours"),
    UNUSED_BLOCKS: (
        0,
        "How many of the oldest blocks that may pay for a job stay unused. Validators disagree by some blocks about "
        "which blocks have expired, and may not count a job that is paid for with the oldest. 0 uses all blocks.",
        "routing_blocks",
    ),
    EXECUTOR_LIMITS: (
        "",
        "The maximum number of executors of a miner by class, such as always_on.llm.a6000=2,always_on.test=1. The "
        "chain follower clips higher counts. If empty, the setting MANIFEST_LIMITS applies.",
        "routing_limits",
    ),
}
"""Entries of CONSTANCE_CONFIG: the default, the help text and the field of each dynamic setting."""

APPS = ("allowance", "receipts", "routing", "channels", "constance")
"""The apps that INSTALLED_APPS must contain."""

FIELDSET = "Miner router"
"""The heading of the dynamic settings in the admin of a site that groups its settings into fieldsets."""


def install(settings: dict[str, Any]) -> None:
    """Add the apps and their dynamic settings to a site: call `install(globals())` at the end of its settings module.

    Existing values are not changed. An app that is listed is not added again. Of the settings of constance (the
    backend, the dynamic settings, their fields and fieldsets) only the missing ones are added.
    """
    listed = list(settings.get("INSTALLED_APPS", ()))
    settings["INSTALLED_APPS"] = [*listed, *(app for app in APPS if not _is_listed(app, listed))]
    settings.setdefault("CONSTANCE_BACKEND", DATABASE_BACKEND)
    settings["CONSTANCE_CONFIG"] = {**CONSTANCE_SETTINGS, **settings.get("CONSTANCE_CONFIG", {})}
    # Constance replaces the fields with objects in place, so it gets a copy.
    own = deepcopy(CONSTANCE_FIELDS)
    settings["CONSTANCE_ADDITIONAL_FIELDS"] = {**own, **settings.get("CONSTANCE_ADDITIONAL_FIELDS", {})}
    groups = settings.get("CONSTANCE_CONFIG_FIELDSETS")
    if groups and (missing := tuple(key for key in CONSTANCE_SETTINGS if key not in _grouped(groups))):
        ours = ((FIELDSET, missing),)
        settings["CONSTANCE_CONFIG_FIELDSETS"] = (
            {**groups, **dict(ours)} if isinstance(groups, Mapping) else (*groups, *ours)
        )


def _is_listed(app: str, listed: list[str]) -> bool:
    """Return whether `listed` has an app, by its name or by the path of its AppConfig."""
    return any(entry == app or entry.startswith(f"{app}.apps.") for entry in listed)


def _grouped(groups: Any) -> set[str]:
    """Return the settings in constance's fieldsets. A collapsible fieldset has its settings under `fields`."""
    shown = dict(groups).values()
    return {key for group in shown for key in (group["fields"] if isinstance(group, Mapping) else group)}
