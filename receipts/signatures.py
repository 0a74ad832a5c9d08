"""Verify that a validator and a miner signed a receipt. This needs the extra `signatures`."""

from __future__ import annotations

from importlib.util import find_spec

from receipts.schemas import Receipt


def can_verify() -> bool:
    """Return whether the extra is installed."""
    return find_spec("bittensor_core") is not None


def is_signed(receipt: Receipt) -> bool:
    """Return whether both sides signed the text of a receipt on the wire. Raises ImportError without the extra."""
    return all(
        signature is not None and receipt.signed is not None and _is_by(hotkey, signature, receipt.signed)
        for hotkey, signature in (
            (receipt.validator_hotkey, receipt.validator_signature),
            (receipt.miner_hotkey, receipt.miner_signature),
        )
    )


def _is_by(hotkey: str, signature: str, text: str) -> bool:
    from bittensor_core import Keypair  # noqa: PLC0415 (an extra)

    try:
        genuine: bool = Keypair(ss58_address=hotkey).verify(text.encode(), bytes.fromhex(signature[2:]))
    except ValueError:  # not an ss58 address
        return False
    return genuine
