"""The adapters that the settings choose. A site can name a class of its own by its dotted path."""

from __future__ import annotations

from typing import Any, cast

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from allowance.follow.conf import NONE, conf
from allowance.follow.libraries import require_library
from allowance.follow.sources import ChainSource, CollateralSource, ManifestSource

# Each adapter is imported where it is chosen: its library may not be installed.
# ruff: noqa: PLC0415


def chain_source() -> ChainSource:
    """Return the source that CHAIN_SOURCE names. Raises ImproperlyConfigured if a setting or a library is missing."""
    require_library(conf.CHAIN_SOURCE)
    match conf.CHAIN_SOURCE:
        case "subtensor":
            from allowance.follow.subtensor import Subtensor

            return Subtensor(required("SUBTENSOR_URL"), conf.SUBTENSOR_ARCHIVE_URL, conf.NETUID)
        case "pylon":
            from allowance.follow.pylon import Pylon

            access = conf.PYLON_IDENTITY_NAME, conf.PYLON_IDENTITY_TOKEN, conf.PYLON_OPEN_ACCESS_TOKEN
            return Pylon(required("PYLON_ADDRESS"), *access, netuid=conf.NETUID)
        case "journal":
            from allowance.follow.journal import Journal

            return Journal(required("JOURNAL_FILE"), hotkey=validator(), speed=conf.JOURNAL_SPEED)
        case path:
            own: ChainSource = _own("CHAIN_SOURCE", path)
            return own


def is_played(chain: ChainSource) -> bool:
    """Return whether a chain is a played journal, or another source that has the manifests of its miners itself."""
    return hasattr(chain, "manifests")


def manifest_source(chain: ChainSource) -> ManifestSource:
    """Return the source that MANIFESTS_FROM names. A played journal has manifests of its own."""
    if is_played(chain):
        return cast(ManifestSource, chain)
    require_library(conf.MANIFESTS_FROM)
    match conf.MANIFESTS_FROM:
        case "miners":
            from allowance.follow.hotkey import read_hotkey
            from allowance.follow.miners import Miners

            key = read_hotkey(required("VALIDATOR_HOTKEY_FILE"), validator(), conf.VALIDATOR_HOTKEY_PASSWORD)
            return Miners(key, allow_private=bool(conf.FOLLOW_PRIVATE_ADDRESSES))
        case "commitments":
            from allowance.follow.commitments import Commitments

            return Commitments(chain)
        case path:
            own: ManifestSource = _own("MANIFESTS_FROM", path)
            return own


def collateral_source(chain: ChainSource) -> CollateralSource | None:
    """Return the source that COLLATERAL_FROM names, or None for `none`. A played journal has collateral of its own."""
    if conf.COLLATERAL_FROM == NONE:
        return None
    if hasattr(chain, "collateral"):
        return cast(CollateralSource, chain)
    require_library(conf.COLLATERAL_FROM)
    match conf.COLLATERAL_FROM:
        case "evm":
            from allowance.follow.evm import from_settings

            return from_settings(chain)
        case path:
            own: CollateralSource = _own("COLLATERAL_FROM", path)
            return own


def validator() -> str:
    """Return the validator's hotkey. Raises ImproperlyConfigured if it is not set."""
    return str(required("VALIDATOR_HOTKEY"))


def required(name: str) -> Any:
    """Return the value of a setting. Raises ImproperlyConfigured if it is empty."""
    if not (value := getattr(conf, name)):
        raise ImproperlyConfigured(f"The chain follower needs {name}. {conf.table[name].help}")
    return value


def _own(setting: str, path: str) -> Any:
    try:
        return import_string(path)()
    except ImportError as error:
        raise ImproperlyConfigured(f"{setting}={path!r:.200} can't be imported: {error}.") from error
