"""The limits of executors per miner and class that are in force."""

from __future__ import annotations

from collections.abc import Mapping

from constance.utils import get_values_for_keys
from django.conf import settings

from allowance.interface import parse_limits
from routing.conf import SETTINGS
from routing.dynamic import EXECUTOR_LIMITS


def executor_limits() -> Mapping[str, int]:
    """Return the limits in the dynamic settings, or MANIFEST_LIMITS if that setting is empty. Uses the database.

    Raises BadInputError if limits were stored without the check of the admin.
    """
    text = str(get_values_for_keys([EXECUTOR_LIMITS])[EXECUTOR_LIMITS])
    if text:
        return parse_limits(text)
    limits: Mapping[str, int] = getattr(settings, "MANIFEST_LIMITS", SETTINGS["MANIFEST_LIMITS"].default)
    return limits
