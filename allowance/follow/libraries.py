"""The libraries of the extras that the adapters need."""

from __future__ import annotations

from importlib.util import find_spec

from django.core.exceptions import ImproperlyConfigured

from allowance.follow.conf import EVM, MINERS, PYLON, SUBTENSOR

LIBRARIES = {
    SUBTENSOR: ("bittensor", "live"),
    PYLON: ("pylon_client", "pylon"),
    MINERS: ("bittensor_core", "live"),
    EVM: ("httpx", "live"),
    "receipts": ("httpx", "live"),
}
"""By the name of an adapter: the module that it needs, and the extra that installs it."""


def missing_library(name: str) -> str:
    """Return what the adapter of this name lacks, as the end of a sentence, or an empty text."""
    module, extra = LIBRARIES.get(name, ("sys", ""))
    return "" if find_spec(module) else f"needs {module}: pip install 'miner-router[{extra}]'."


def require_library(name: str) -> None:
    """Raise ImproperlyConfigured if the library of the adapter of this name is not installed."""
    if missing := missing_library(name):
        raise ImproperlyConfigured(f"The source {name} {missing}")
