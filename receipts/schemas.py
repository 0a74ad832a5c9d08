"""Validation of incoming receipts: instances, or dicts in the format of the wire."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from numbers import Integral
from typing import Annotated, Any, TypeVar
from uuid import UUID

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from receipts.types import HOTKEY_LENGTH, MAX_BLOCKS, MAX_TTL, BadReceiptError

Hotkey = Annotated[str, StringConstraints(min_length=1, max_length=HOTKEY_LENGTH, pattern=r"^[^\s\x00-\x1f]+$")]
Time = Annotated[
    AwareDatetime,
    Field(strict=True, ge=dt.datetime(1970, 1, 1, tzinfo=dt.UTC), lt=dt.datetime(3000, 1, 1, tzinfo=dt.UTC)),
]
AnyInteger = BeforeValidator(lambda n: int(n) if isinstance(n, Integral) and not isinstance(n, bool) else n)
"""Accept NumPy integers as ints. Pydantic does not accept them by itself."""
Ttl = Annotated[int, Field(strict=True, ge=0, le=MAX_TTL), AnyInteger]
Whole = Annotated[int, Field(strict=True, ge=0, le=2**63 - 1), AnyInteger]

HexSignature = Annotated[str, StringConstraints(pattern=r"^0x[0-9a-fA-F]{128}$")]


def _none_if_empty(value: object) -> object:
    return None if value == "" else value  # a column stores a missing text as ""


class Receipt(BaseModel):
    """The fields of all receipts. See `receipts.models` for their meaning."""

    model_config = ConfigDict(extra="forbid", frozen=True, revalidate_instances="always")

    job_uuid: UUID
    miner_hotkey: Hotkey
    validator_hotkey: Hotkey
    timestamp: Time
    signed: Annotated[str | None, BeforeValidator(_none_if_empty)] = None
    validator_signature: Annotated[HexSignature | None, BeforeValidator(_none_if_empty)] = None
    miner_signature: Annotated[HexSignature | None, BeforeValidator(_none_if_empty)] = None


class JobStarted(Receipt):
    """The validator sent the job. The job keeps an executor of the class busy for `ttl` seconds."""

    executor_class: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[\w.\-]+$")]
    is_organic: Annotated[bool, Field(strict=True)] = True
    ttl: Whole


class JobAccepted(Receipt):
    """The miner accepted the job. If no started receipt is valid, the job keeps an executor busy for `ttl` seconds."""

    time_accepted: Time
    ttl: Whole


class JobFinished(Receipt):
    """The job is over. `block_numbers` are the blocks of allowance that paid for it."""

    time_started: Time
    time_took_us: Whole
    score_str: Annotated[str, StringConstraints(max_length=64, pattern=r"^[^\x00]*$")] = ""
    block_numbers: list[Whole] = Field(default_factory=list, max_length=MAX_BLOCKS)


AnyReceipt = JobStarted | JobAccepted | JobFinished
Kind = TypeVar("Kind", bound=Receipt)

KINDS: dict[str, type[AnyReceipt]] = {
    "JobStartedReceipt": JobStarted,
    "JobAcceptedReceipt": JobAccepted,
    "JobFinishedReceipt": JobFinished,
}
"""The schemas by the `receipt_type` on the wire."""

ENVELOPE = ("signed", "validator_signature", "miner_signature")


class Wire(BaseModel):
    """A receipt in the format of the wire: miners serve it, and validators forward it."""

    model_config = ConfigDict(extra="forbid")

    payload: dict[str, Any]
    validator_signature: HexSignature
    miner_signature: HexSignature


def read(receipt: AnyReceipt | Mapping[str, Any]) -> AnyReceipt:
    """Validate a receipt, an instance or a dict in the format of the wire. Raises BadReceiptError if it is invalid.

    Both sides sign the payload as JSON with sorted keys. `receipts.signatures` verifies the signatures.
    """
    try:
        if isinstance(receipt, AnyReceipt):
            return type(receipt).model_validate(receipt)  # the instance may have been made without validation
        wire = Wire.model_validate(receipt)
        payload, named = dict(wire.payload), wire.payload.get("receipt_type")
        kind = KINDS.get(named) if isinstance(named, str) else None
        if kind is None:
            raise BadReceiptError(f"receipt_type must be one of {', '.join(KINDS)}, not {named!r:.80}.")
        if foreign := payload.keys() & set(ENVELOPE):
            raise BadReceiptError(f"A receipt's payload must not have the field {min(foreign)}.")
        signed = json.dumps(payload, sort_keys=True)
        del payload["receipt_type"]
        signatures = {"validator_signature": wire.validator_signature, "miner_signature": wire.miner_signature}
        return kind.model_validate_json(json.dumps({**payload, **signatures, "signed": signed}))
    except BadReceiptError:
        raise
    except ValidationError as error:
        raise BadReceiptError(_first_problem(error)) from error
    except (TypeError, ValueError, RecursionError) as error:  # ValueError: a number of more than 4,300 digits
        raise BadReceiptError("A receipt's payload must be valid JSON without deep nesting.") from error


def bounded(receipt: Kind, most: int = MAX_TTL) -> Kind:
    """Return a receipt with its ttl bounded by `most` and MAX_TTL (s), or the same receipt if nothing changes."""
    most = min(most, MAX_TTL)
    longer = isinstance(receipt, JobStarted | JobAccepted) and receipt.ttl > most
    return receipt.model_copy(update={"ttl": most}) if longer else receipt


def _first_problem(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    where = ".".join(f"{part!s:.80}" for part in problems[0]["loc"]) or "A receipt"
    more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
    return f"{where}: {problems[0]['msg']:.400}{more}"
