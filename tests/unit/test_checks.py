"""The system checks: each tells of its bad setting, and what to do."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
from pytest_django import Settings

from routing.conf import SETTINGS
from routing.dynamic import CONSTANCE_SETTINGS
from tests.complaints import Sends, another_database, assert_only_complaint, complaints

SQLITE: dict[str, Any] = {
    "ENGINE": "django.db.backends.sqlite3",
    "OPTIONS": {"transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL;"},
}
POSTGRES: dict[str, Any] = {"ENGINE": "django.db.backends.postgresql"}


def test_the_project_s_settings_are_fine() -> None:
    assert complaints() == []


@pytest.mark.parametrize("database", [SQLITE, POSTGRES], ids=["SQLite", "PostgreSQL"])
@pytest.mark.parametrize("routers", [(), (Sends("other"),)], ids=["of others", "ours"])
def test_another_good_database_is_fine(database: dict[str, Any], routers: tuple[Sends, ...]) -> None:
    with another_database(database, *routers):
        assert complaints() == []


@pytest.mark.parametrize(
    ("identity", "engine", "options"),
    [
        ("routing.E001", SQLITE, {"transaction_mode": "DEFERRED"}),
        ("routing.E001", SQLITE, {"transaction_mode": None}),
        ("routing.E002", SQLITE, {"init_command": "PRAGMA synchronous=NORMAL;"}),
        ("routing.E002", SQLITE, {"init_command": "PRAGMA journal_mode = DELETE;"}),
        ("routing.E007", POSTGRES, {"pool": True}),
        ("routing.E007", POSTGRES, {"pool": {"max_size": 4}}),
    ],
)
def test_a_bad_database_is_told_by_its_alias_if_it_is_ours(
    identity: str, engine: dict[str, Any], options: dict[str, Any]
) -> None:
    bad = {**engine, "OPTIONS": {**engine.get("OPTIONS", {}), **options}}
    with another_database(bad, Sends("other")):
        assert_only_complaint(identity, "'other'")
    with another_database(bad):
        assert complaints() == []


@pytest.mark.parametrize("key", [*CONSTANCE_SETTINGS])
def test_a_missing_dynamic_setting_is_named(key: str, settings: Settings) -> None:
    settings.CONSTANCE_CONFIG = {k: v for k, v in CONSTANCE_SETTINGS.items() if k != key}
    assert_only_complaint("routing.E003", key)


@pytest.mark.parametrize("key", ["h" * 49, "hot\0key", " "])
def test_a_debug_key_that_is_no_hotkey_is_named(key: str, settings: Settings) -> None:
    settings.DEBUG_MINER_KEY = key
    assert_only_complaint("routing.E004", "DEBUG_MINER_KEY", repr(key))


@pytest.mark.parametrize("prefix", ["DEBUG_MINER", "TRUSTED_MINER"])
@pytest.mark.parametrize(
    ("name", "value"), [("ADDRESS", "miner.example"), ("ADDRESS", "10.0.0.256"), ("PORT", 65536), ("PORT", -1)]
)
def test_a_fixed_miner_that_can_t_be_called_is_named(prefix: str, name: str, value: object, settings: Settings) -> None:
    settings.DEBUG_MINER_KEY = "hot-1"
    setattr(settings, f"{prefix}_{name}", value)
    assert_only_complaint("routing.E005", prefix, repr(value))


def test_the_debug_miner_s_address_does_not_matter_without_its_key(settings: Settings) -> None:
    settings.DEBUG_MINER_KEY, settings.DEBUG_MINER_ADDRESS = "", "miner.example"
    assert complaints() == []


NUMBERS = [name for name, setting in SETTINGS.items() if setting.least > -math.inf]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [-1, -0.5, True, "30", None, math.inf, math.nan])
def test_a_number_that_is_none_or_too_small_is_named(name: str, value: object, settings: Settings) -> None:
    setattr(settings, name, value)
    assert_only_complaint("routing.E006", name, repr(value))


@pytest.mark.parametrize("name", [name for name in NUMBERS if SETTINGS[name].least])
def test_a_number_that_can_t_be_0_is_named(name: str, settings: Settings) -> None:
    setattr(settings, name, 0)
    assert_only_complaint("routing.E006", name, "0")


@pytest.mark.parametrize("name", [name for name in NUMBERS if isinstance(SETTINGS[name].default, int)])
def test_a_number_that_is_not_whole_is_named(name: str, settings: Settings) -> None:
    setattr(settings, name, 2.5)
    assert_only_complaint("routing.E006", name, "2.5")


@pytest.mark.parametrize("name", [name for name in NUMBERS if SETTINGS[name].most < math.inf])
def test_a_number_that_is_too_large_is_named(name: str, settings: Settings) -> None:
    setattr(settings, name, SETTINGS[name].most + 1)
    assert_only_complaint("routing.E006", name, repr(SETTINGS[name].most + 1))


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_at_its_bound_is_fine(name: str, settings: Settings) -> None:
    for value in {SETTINGS[name].least, min(SETTINGS[name].most, 10**6)}:
        setattr(settings, name, int(value) if isinstance(SETTINGS[name].default, int) else value)
        assert complaints() == []


FACILITATOR = "5FUJCuGtQPonu8B9JKH4BwsKzEdtyBTpyvbBk2beNZ4iX8sk"


def test_a_facilitator_s_key_is_fine(settings: Settings) -> None:
    settings.ROUTING_FACILITATOR_PUBLIC_KEYS = [FACILITATOR]
    assert complaints() == []


@pytest.mark.parametrize("key", ["", "k", FACILITATOR[:-1] + "j", FACILITATOR + " ", "0x" + "ab" * 32])
def test_a_facilitator_s_key_that_is_no_address_is_named(key: str, settings: Settings) -> None:
    settings.ROUTING_FACILITATOR_PUBLIC_KEYS = [FACILITATOR, key]
    assert_only_complaint("routing.E009", "ROUTING_FACILITATOR_PUBLIC_KEYS", repr(key))


def test_one_key_in_place_of_the_list_is_named(settings: Settings) -> None:
    settings.ROUTING_FACILITATOR_PUBLIC_KEYS = FACILITATOR
    assert_only_complaint("routing.E009", "ROUTING_FACILITATOR_PUBLIC_KEYS", repr([FACILITATOR]))


def test_keys_without_what_verifies_signatures_are_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bittensor_core", None)
    assert complaints() == []
    settings.ROUTING_FACILITATOR_PUBLIC_KEYS = [FACILITATOR]
    assert_only_complaint("routing.E009", "ROUTING_FACILITATOR_PUBLIC_KEYS", "bittensor_core")
    assert "miner-router[signatures]" in str(complaints()[0].hint)


def test_limits_of_the_status_are_fine(settings: Settings) -> None:
    settings.ROUTING_STATUS_LIMITS = {"refusals": [0, 0.5], "most_jobs": (100, 100)}
    assert complaints() == []


@pytest.mark.parametrize("name", ["", "refusal", "REFUSALS", 1])
def test_a_limit_of_the_status_for_what_is_not_measured_is_named(name: object, settings: Settings) -> None:
    settings.ROUTING_STATUS_LIMITS = {"refusals": [25, 50], name: [1, 2]}
    assert_only_complaint("routing.E012", "ROUTING_STATUS_LIMITS", repr(name), "block_age")


@pytest.mark.parametrize(
    "pair", [None, 5, "12", [1], [1, 2, 3], [2, 1], [-1, 2], [1, "2"], [True, 2], [1, float("inf")], [float("nan"), 2]]
)
def test_a_limit_of_the_status_that_is_none_is_named(pair: object, settings: Settings) -> None:
    settings.ROUTING_STATUS_LIMITS = {"refusals": pair}
    assert_only_complaint("routing.E012", "ROUTING_STATUS_LIMITS: refusals", repr(pair))


@pytest.mark.parametrize("limits", [None, [], "refusals", 7])
def test_limits_of_the_status_that_are_no_mapping_are_told(limits: object, settings: Settings) -> None:
    settings.ROUTING_STATUS_LIMITS = limits
    assert_only_complaint("routing.E012", "ROUTING_STATUS_LIMITS must be", f"not {limits!r}")
