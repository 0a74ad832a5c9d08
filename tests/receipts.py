"""Receipts in the form that they have on the wire: those that ComputeHorde's library signed, and new ones."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

from bittensor_core import Keypair

from tests.ledgers import CLASS

Wire = dict[str, Any]

GOLDEN: list[Wire] = [
    json.loads(line) for line in (Path(__file__).parent / "unit" / "signed_receipts.jsonl").read_text().splitlines()
]
"""A started, an accepted and a finished receipt, and the started one again; recorded with compute-horde 0.0.27."""

MINER, VALIDATOR, OTHER = (Keypair.create_from_uri(f"//{name}") for name in ("Anna", "Victor", "Otto"))


def signed(payload: Wire, miner: Keypair = MINER, validator: Keypair = VALIDATOR) -> Wire:
    """Return a receipt as two keys sign it."""
    text = json.dumps(payload, sort_keys=True).encode()
    return {
        "payload": payload,
        "validator_signature": f"0x{validator.sign(text).hex()}",
        "miner_signature": f"0x{miner.sign(text).hex()}",
    }


def started(at: dt.datetime, *, miner: Keypair = MINER, validator: Keypair = VALIDATOR, **fields: Any) -> Wire:
    """Return the receipt of a job that a miner started `at` a time; `fields` overrule before it is signed."""
    payload = {
        "receipt_type": "JobStartedReceipt",
        "job_uuid": str(uuid4()),
        "miner_hotkey": miner.ss58_address,
        "validator_hotkey": validator.ss58_address,
        "timestamp": at.isoformat(),
        "executor_class": CLASS,
        "is_organic": True,
        "ttl": 300,
        **fields,
    }
    return signed(payload, miner, validator)
