"""Fixed routes. If there is a debug miner, it gets all jobs. Otherwise trusted jobs go to the trusted miner."""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured

from allowance.interface import BadInputError, Miner, MinerRow, validation
from routing.conf import conf
from routing.types import TRUSTED_MINER_FAKE_KEY, JobRoute, OrganicJobRequest

ADVICE = "Set {prefix}_ADDRESS and {prefix}_PORT to the address and the port of this miner."


def fixed_route(request: OrganicJobRequest) -> JobRoute | None:
    """Return the fixed route of a job, to the debug miner or else to the trusted miner; None if it has none."""
    if debug := debug_miner():
        return JobRoute(debug, [], None)
    if request.on_trusted_miner:
        return JobRoute(trusted_miner(), None, None)
    return None


def debug_miner() -> Miner | None:
    """Return the miner that gets every job, or None if the settings name none.

    Its address is the one in the settings, or else the one on the chain. Raises ImproperlyConfigured if there is no
    address or if it can't be reached.
    """
    key = conf.DEBUG_MINER_KEY
    if not key:
        return None
    return reachable("DEBUG_MINER", fixed_miner("DEBUG_MINER", key) or recorded_miner(key))


def trusted_miner() -> Miner:
    """Return the pseudo-miner that trusted jobs go to. Raises ImproperlyConfigured if it has no reachable address."""
    return reachable("TRUSTED_MINER", fixed_miner("TRUSTED_MINER", TRUSTED_MINER_FAKE_KEY))


def fixed_miner(prefix: str, hotkey: str) -> Miner | None:
    """Return the miner at the address and port in the settings with this prefix, or None if both are unset.

    Raises ImproperlyConfigured if they are not an IP address and a port.
    """
    address, port = getattr(conf, f"{prefix}_ADDRESS"), getattr(conf, f"{prefix}_PORT")
    if not address and not port:
        return None
    try:
        where, version = validation.address(address or "0.0.0.0", f"{prefix}_ADDRESS")  # noqa: S104 (a miner's)
        number = validation.whole(port or 0, f"{prefix}_PORT", validation.MAX_PORT)
    except BadInputError as error:
        raise ImproperlyConfigured(str(error)) from error
    if version is None:
        raise ImproperlyConfigured(f"{prefix}_ADDRESS must be an IP address, not {address!r:.80}.")
    return Miner(where, version, number, hotkey)


def recorded_miner(hotkey: str) -> Miner | None:
    """Return a miner with its address on the chain, or None if there is no such miner."""
    row = MinerRow.objects.filter(pk=hotkey).first()
    return row.value if row else None


def reachable(prefix: str, miner: Miner | None) -> Miner:
    """Return the miner. Raises ImproperlyConfigured if it is None or can't be reached."""
    if miner is None or not miner.is_reachable:
        says = "no address" if miner is None else f"the address {miner.endpoint}, which can't be reached"
        raise ImproperlyConfigured(f"{prefix} has {says}. {ADVICE.format(prefix=prefix)}")
    return miner
