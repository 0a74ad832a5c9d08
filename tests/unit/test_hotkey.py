"""The validator's hotkey is read from the files that Bittensor's wallets write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bittensor_core
import pytest
from bittensor_core import Keypair

from allowance.follow.hotkey import MAX_FILE, HotkeyUnusable, read_hotkey

KEY = Keypair.create_from_uri("//Validator")
PLAIN: bytes = bittensor_core.serialized_keypair_to_keyfile_data(KEY)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hotkey"


def test_a_plain_file_is_read(path: Path) -> None:
    path.write_bytes(PLAIN)
    key = read_hotkey(str(path), KEY.ss58_address)
    assert key.ss58_address == KEY.ss58_address
    assert KEY.verify(b"text", key.sign(b"text"))


def test_a_file_with_a_mnemonic_is_read(path: Path) -> None:
    mnemonic = Keypair.generate_mnemonic()
    path.write_text(json.dumps({"secretPhrase": mnemonic}))
    assert read_hotkey(str(path)).ss58_address == Keypair.create_from_mnemonic(mnemonic).ss58_address


def test_the_home_directory_is_known(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(PLAIN)
    monkeypatch.setenv("HOME", str(path.parent))
    assert read_hotkey("~/hotkey").ss58_address == KEY.ss58_address


@pytest.mark.slow
def test_an_encrypted_file_is_opened_with_its_password(path: Path) -> None:
    path.write_bytes(bittensor_core.encrypt_keyfile_data(PLAIN, "secret"))
    assert read_hotkey(str(path), password="secret").ss58_address == KEY.ss58_address
    for password, reason in (("", "Set VALIDATOR_HOTKEY_PASSWORD"), ("wrong", "does not open it")):
        with pytest.raises(HotkeyUnusable, match=reason):
            read_hotkey(str(path), password=password)


PUBLIC: bytes = bittensor_core.serialized_keypair_to_keyfile_data(Keypair(ss58_address=KEY.ss58_address))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a hotkey file"),
        (b"{}", "not a hotkey file"),
        (b"hunter2 hunter2", "not a hotkey file"),
        (b"\xff\xfe", "not a hotkey file"),
        (PUBLIC, "no private key"),
        (b" " * (MAX_FILE + 1), "too long"),
    ],
)
def test_a_file_that_is_no_key_is_refused_without_quoting_it(path: Path, data: bytes, reason: str) -> None:
    path.write_bytes(data)
    with pytest.raises(HotkeyUnusable, match=reason) as refused:
        read_hotkey(str(path), password="secret")
    assert "hunter2" not in str(refused.value)
    assert refused.value.path == str(path)


@pytest.mark.parametrize("name", ["", ".", "missing"])
def test_a_file_that_can_not_be_read_is_refused(path: Path, name: str) -> None:
    with pytest.raises(HotkeyUnusable, match="can't be read"):
        read_hotkey(str(path.parent / name) if name else name)


def test_another_key_than_the_validators_is_refused(path: Path) -> None:
    path.write_bytes(PLAIN)
    other: Any = Keypair.create_from_uri("//Other").ss58_address
    with pytest.raises(HotkeyUnusable, match=f"{KEY.ss58_address}, but VALIDATOR_HOTKEY is {other}"):
        read_hotkey(str(path), other)
