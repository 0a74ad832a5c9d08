"""The validator's hotkey, read from its file, to sign requests to miners."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from allowance.follow.sources import SourceError

MAX_FILE = 64 * 1024
"""Bytes. A file of a hotkey has fewer than 1,000."""


class Signer(Protocol):
    """A key that signs. `ss58_address` is its public address."""

    @property
    def ss58_address(self) -> str: ...

    def sign(self, data: bytes) -> bytes:
        """Return the signature (sr25519) of `data`."""


class HotkeyUnusable(SourceError):
    """The file of the validator's hotkey can't be used. `path` is the file, `reason` a sentence that says why."""

    wait = 60.0

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"The follower can't sign with the hotkey file {path!r}. {reason}")


def read_hotkey(path: str, expected: str = "", password: str = "") -> Signer:
    """Return the key in a hotkey file, such as ~/.bittensor/wallets/NAME/hotkeys/KEY.

    `expected` is the ss58 address that it must have, if any. `password` opens an encrypted file. Raises HotkeyUnusable.
    The text of the error quotes nothing from the file.
    """
    import bittensor_core  # noqa: PLC0415 (an extra: needed only if miners are asked)

    try:
        with Path(path).expanduser().open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
        raise HotkeyUnusable(path, f"It can't be read: {getattr(error, 'strerror', None) or error}.") from error
    if len(data) > MAX_FILE:
        raise HotkeyUnusable(path, "It is too long for a hotkey file.")
    try:
        if bittensor_core.keyfile_data_is_encrypted(data):
            if not password:
                raise HotkeyUnusable(path, "It is encrypted. Set VALIDATOR_HOTKEY_PASSWORD, or use a plain file.")
            data = bittensor_core.decrypt_keyfile_data(data, password)
        key: Signer = bittensor_core.deserialize_keypair_from_keyfile_data(data)
        key.sign(b"")
    except bittensor_core.WrongPasswordError:
        raise HotkeyUnusable(path, "It is encrypted, and VALIDATOR_HOTKEY_PASSWORD does not open it.") from None
    except bittensor_core.KeyfileError:
        raise HotkeyUnusable(path, "It is not a hotkey file.") from None
    except ValueError:
        raise HotkeyUnusable(path, "It has no private key. Use the file in `hotkeys`, not a public key.") from None
    if expected and key.ss58_address != expected:
        raise HotkeyUnusable(path, f"It is the key {key.ss58_address}, but VALIDATOR_HOTKEY is {expected}.")
    return key
