"""System checks for the settings of the chain follower.

A value that can't be valid is always an error. What is missing is an error only if VALIDATOR_HOTKEY is set: a site
without it has no follower.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.utils.module_loading import import_string

from allowance import validation
from allowance.follow.conf import COLLATERAL_SOURCES, JOURNAL, MANIFEST_SOURCES, MINERS, PYLON, SOURCES, conf
from allowance.follow.hotkey import HotkeyUnusable, read_hotkey
from allowance.follow.libraries import missing_library
from allowance.plumbing.checks import check
from allowance.types import EXECUTOR_CLASSES


@check("allowance.E001", "Set it to one of its names, or to the dotted path of a class of your own.")
def check_sources(**_kwargs: Any) -> Iterator[str]:
    """Require sources that exist, and the libraries of those that are used."""
    for setting, names in (
        ("CHAIN_SOURCE", SOURCES),
        ("MANIFESTS_FROM", MANIFEST_SOURCES),
        ("COLLATERAL_FROM", COLLATERAL_SOURCES),
    ):
        name = getattr(conf, setting)
        if name not in names:
            try:
                import_string(name)
            except ImportError as error:
                yield f"{setting} is {name!r:.200}, not one of {', '.join(names)}, and can't be imported: {error}."
        elif _is_used(setting) and (missing := missing_library(name)):
            yield f"{setting} is {name}, which {missing}"


@check("allowance.E002", "Set what is missing, or remove VALIDATOR_HOTKEY if this site needs no chain follower.")
def check_missing(**_kwargs: Any) -> Iterator[str]:
    """Require the settings that the chosen sources need."""
    if conf.CHAIN_SOURCE == PYLON and not conf.PYLON_ADDRESS:
        yield "CHAIN_SOURCE is pylon, but PYLON_ADDRESS is empty."
    if bool(conf.PYLON_IDENTITY_NAME) != bool(conf.PYLON_IDENTITY_TOKEN):
        yield "PYLON_IDENTITY_NAME and PYLON_IDENTITY_TOKEN must be set together."
    if conf.CHAIN_SOURCE == JOURNAL:
        if not Path(conf.JOURNAL_FILE).is_file():
            yield f"CHAIN_SOURCE is journal, but JOURNAL_FILE is {conf.JOURNAL_FILE!r:.200}, which is no file."
    elif conf.VALIDATOR_HOTKEY and conf.MANIFESTS_FROM == MINERS and not conf.VALIDATOR_HOTKEY_FILE:
        yield "MANIFESTS_FROM is miners, but VALIDATOR_HOTKEY_FILE is empty. Miners answer signed requests only."


@check("allowance.E003", "Use the address of a validator's hotkey. It begins with 5 and has 48 characters.")
def check_hotkey(**_kwargs: Any) -> Iterator[str]:
    """Require a validator's hotkey that can be one."""
    if not (hotkey := conf.VALIDATOR_HOTKEY):
        return
    try:
        validation.hotkey(hotkey)
    except ValueError as error:
        yield f"VALIDATOR_HOTKEY: {error}"


@check(
    "allowance.E007",
    "Copy the file of this validator's hotkey, let only the service's user read it, and name it in "
    "VALIDATOR_HOTKEY_FILE.",
)
def check_hotkey_file(**_kwargs: Any) -> Iterator[str]:
    """Require a file of the validator's hotkey, if miners are asked."""
    hotkey = conf.VALIDATOR_HOTKEY
    if hotkey and _asks_miners() and (path := conf.VALIDATOR_HOTKEY_FILE) and find_spec("bittensor_core"):
        try:
            read_hotkey(path, hotkey, conf.VALIDATOR_HOTKEY_PASSWORD)
        except HotkeyUnusable as error:
            yield f"VALIDATOR_HOTKEY_FILE: {error}"


@check("allowance.E004", 'Write it as JSON, such as {"always_on.llm.a6000": 2}. An empty object sets no limit.')
def check_limits(**_kwargs: Any) -> Iterator[str]:
    """Require limits of executors that name known classes."""
    limits = conf.MANIFEST_LIMITS
    if not isinstance(limits, Mapping):
        yield f"MANIFEST_LIMITS is {limits!r:.80}, not an object."
        return
    for name, limit in limits.items():
        if name not in EXECUTOR_CLASSES:
            yield f"MANIFEST_LIMITS names {name!r:.80}. The classes are: {', '.join(sorted(EXECUTOR_CLASSES))}."
        if not validation.is_integer(limit) or limit < 0:
            yield f"MANIFEST_LIMITS has {limit!r:.80} for {name!r:.80}, not a whole number of 0 or more."


@check("allowance.E005", "Use 0x and 40 hexadecimal digits, or leave it empty: the validator's commitment names it.")
def check_contract(**_kwargs: Any) -> Iterator[str]:
    """Require an address of the collateral contract that can be one."""
    if (address := conf.COLLATERAL_CONTRACT) and not re.fullmatch(r"0x[0-9a-fA-F]{40}", str(address)):
        yield f"COLLATERAL_CONTRACT is {address!r:.80}."


@check("allowance.E006", "Use addresses that begin with ws:// or wss://, and http:// or https:// for EVM_URL.")
def check_addresses(**_kwargs: Any) -> Iterator[str]:
    """Require addresses of the protocols that the follower speaks."""
    for setting, schemes in (
        ("SUBTENSOR_URL", "wss?"),
        ("SUBTENSOR_ARCHIVE_URL", "wss?"),
        ("EVM_URL", "https?"),
        ("PYLON_ADDRESS", "https?"),
    ):
        value = getattr(conf, setting)
        for address in value if isinstance(value, list | tuple) else [value]:
            if address and not re.match(rf"{schemes}://[^/\s]", str(address)):
                yield f"{setting} is {address!r:.200}."


def _asks_miners() -> bool:
    return bool(conf.CHAIN_SOURCE != JOURNAL and conf.MANIFESTS_FROM == MINERS)


def _is_used(setting: str) -> bool:
    """Return whether this site has a follower that uses a source. A played journal has all of its own."""
    return bool(conf.VALIDATOR_HOTKEY) and (setting == "CHAIN_SOURCE" or conf.CHAIN_SOURCE != JOURNAL)
