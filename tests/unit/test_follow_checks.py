"""The system checks of the follower's settings: each names its bad setting. A site without a follower has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from tests.complaints import assert_only_complaint, complaints

HOTKEY = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"


@pytest.fixture
def journal(settings: Settings, tmp_path: Path) -> Settings:
    """Settings of a follower that plays a journal."""
    file = tmp_path / "journal.jsonl"
    file.write_text("{}")
    settings.CHAIN_SOURCE, settings.JOURNAL_FILE, settings.VALIDATOR_HOTKEY = "journal", str(file), HOTKEY
    settings.MANIFESTS_FROM, settings.COLLATERAL_FROM, settings.RECEIPTS_FROM_MINERS = "commitments", "none", 0
    return settings


def test_a_played_journal_is_fine(journal: Settings) -> None:
    assert complaints() == []


@pytest.mark.parametrize(
    ("name", "value", "identity", "text"),
    [
        ("CHAIN_SOURCE", "substrate", "allowance.E001", "substrate"),
        ("MANIFESTS_FROM", "no.such.Source", "allowance.E001", "no.such.Source"),
        ("COLLATERAL_FROM", "os.nothing", "allowance.E001", "os.nothing"),
        ("JOURNAL_FILE", "/no/such/file", "allowance.E002", "/no/such/file"),
        ("PYLON_IDENTITY_NAME", "me", "allowance.E002", "PYLON_IDENTITY_TOKEN"),
        ("VALIDATOR_HOTKEY", "5 blanks", "allowance.E003", "5 blanks"),
        ("MANIFEST_LIMITS", {"made.up": 2}, "allowance.E004", "made.up"),
        ("MANIFEST_LIMITS", {"always_on.test": -1}, "allowance.E004", "-1"),
        ("MANIFEST_LIMITS", {"always_on.test": True}, "allowance.E004", "True"),
        ("MANIFEST_LIMITS", [2], "allowance.E004", "[2]"),
        ("COLLATERAL_CONTRACT", "0x12", "allowance.E005", "0x12"),
        ("SUBTENSOR_URL", ["http://node"], "allowance.E006", "http://node"),
        ("SUBTENSOR_ARCHIVE_URL", "archive", "allowance.E006", "archive"),
        ("EVM_URL", "ws://node", "allowance.E006", "ws://node"),
        ("PYLON_ADDRESS", "127.0.0.1:8000", "allowance.E006", "127.0.0.1:8000"),
    ],
)
def test_a_bad_setting_is_named(journal: Settings, name: str, value: Any, identity: str, text: str) -> None:
    setattr(journal, name, value)
    assert_only_complaint(identity, text)


def test_a_class_of_the_site_can_be_a_source(journal: Settings) -> None:
    journal.MANIFESTS_FROM = "tests.chains.Chain"
    assert complaints() == []


def test_miners_answer_signed_requests_only(journal: Settings) -> None:
    journal.CHAIN_SOURCE = "tests.chains.Chain"
    journal.MANIFESTS_FROM = "miners"
    assert_only_complaint("allowance.E002", "VALIDATOR_HOTKEY_FILE")
    journal.VALIDATOR_HOTKEY = ""  # a site without a follower
    assert complaints() == []


def test_a_missing_library_is_named_with_its_extra(journal: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allowance.follow.libraries.find_spec", lambda name: None if name == "pylon_client" else name)
    journal.CHAIN_SOURCE, journal.PYLON_ADDRESS = "pylon", "http://127.0.0.1:8000"
    assert_only_complaint("allowance.E001", "miner-router[pylon]")


def test_receipts_need_a_library(journal: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allowance.follow.libraries.find_spec", lambda name: None if name == "httpx" else name)
    journal.CHAIN_SOURCE, journal.RECEIPTS_FROM_MINERS = "tests.chains.Chain", 1
    assert_only_complaint("routing.E027", "miner-router[live]")
    journal.CHAIN_SOURCE = "journal"
    assert complaints() == []
