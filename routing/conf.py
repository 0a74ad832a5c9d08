"""What settings say: fixed ones from Django, dynamic ones from constance."""

from __future__ import annotations

import datetime as dt
import ipaddress

from constance.utils import get_values_for_keys
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from allowance.types import MAX_WEI, Miner
from routing.dynamic import MAX_WINDOW_HOURS, MINIMUM_WEI, WINDOW_HOURS
from routing.types import TRUSTED_MINER_FAKE_KEY, Policy


def policy() -> Policy:
    """Return the dynamic settings in force. One query; unlike reading `config`, it stores no defaults."""
    try:
        values = get_values_for_keys([MINIMUM_WEI, WINDOW_HOURS])
        return make_policy(values[MINIMUM_WEI], values[WINDOW_HOURS])
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"{error} Correct it in the admin, under Config.") from error


def make_policy(minimum_wei: int, window_hours: float) -> Policy:
    """Return a policy; raises ValueError for values outside the bounds that the admin has."""
    if not 0 <= minimum_wei <= MAX_WEI:
        raise ValueError(f"{MINIMUM_WEI} must be 0 to 2**256 - 1, not {minimum_wei!r:.80}.")
    if not 0 <= window_hours <= MAX_WINDOW_HOURS:
        raise ValueError(f"{WINDOW_HOURS} must be 0 to {MAX_WINDOW_HOURS:g}, not {window_hours!r:.80}.")
    return Policy(int(minimum_wei), dt.timedelta(hours=window_hours))


def debug_miner() -> Miner | None:
    """Return the miner that gets every job, if settings name one."""
    key = getattr(settings, "DEBUG_MINER_KEY", None)
    return _fixed_miner("DEBUG_MINER", key) if key else None


def trusted_miner() -> Miner:
    """Return the pseudo-miner that trusted jobs go to."""
    return _fixed_miner("TRUSTED_MINER", TRUSTED_MINER_FAKE_KEY)


def _fixed_miner(prefix: str, hotkey: str) -> Miner:
    address = getattr(settings, f"{prefix}_ADDRESS", None) or "0.0.0.0"  # noqa: S104 (a miner's, not ours)
    try:
        ip_version = ipaddress.ip_address(address).version
    except ValueError:
        ip_version = 4
    return Miner(address, ip_version, int(getattr(settings, f"{prefix}_PORT", None) or 0), hotkey)
