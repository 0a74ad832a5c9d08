"""Fixed routes: all jobs go to a debug miner if there is one, and trusted jobs to the trusted miner."""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured

from allowance.interface import BadInputError, Miner, MinerRow, validation
from routing.conf import conf
from routing.types import TRUSTED_MINER_FAKE_KEY, JobRoute, OrganicJobRequest

ADVICE = "Set {prefix}_ADDRESS and {prefix}_PORT to where it listens."


def fixed_route(request: OrganicJobRequest) -> JobRoute | None:
    """Return the route of a job that is not to be routed: to the debug miner, or else to the trusted one."""
    if debug := debug_miner():
        return JobRoute(debug, [], None)
    if request.on_trusted_miner:
        return JobRoute(trusted_miner(), None, None)
    return None


def debug_miner() -> Miner | None:
    """Return the miner that gets every job, if settings name one.

    It listens where settings say, or else where the chain says. Raises ImproperlyConfigured if that is nowhere.
    """
    key = conf.DEBUG_MINER_KEY
    if not key:
        return None
    return reachable("DEBUG_MINER", fixed_miner("DEBUG_MINER", key) or recorded_miner(key))


def trusted_miner() -> Miner:
    """Return the pseudo-miner that trusted jobs go to. Raises ImproperlyConfigured if it has no address."""
    return reachable("TRUSTED_MINER", fixed_miner("TRUSTED_MINER", TRUSTED_MINER_FAKE_KEY))


def fixed_miner(prefix: str, hotkey: str) -> Miner | None:
    """Return the miner whose address and port the settings with this prefix have; None if they have neither.

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
    """Return a miner with the address that the chain recorded for it, None if there is no such miner."""
    row = MinerRow.objects.filter(pk=hotkey).first()
    return row.value if row else None


def reachable(prefix: str, miner: Miner | None) -> Miner:
    """Return a fixed miner. Raises ImproperlyConfigured if there is none, or if it can't be reached."""
    if miner is None or not miner.is_reachable:
        says = "no address" if miner is None else f"the address {miner.endpoint}, which can't be reached"
        raise ImproperlyConfigured(f"{prefix} has {says}. {ADVICE.format(prefix=prefix)}")
    return miner
