"""Receipts as they come in, checked: pydantic's ValidationError is a ValueError that names field and value."""

from __future__ import annotations

import datetime as dt
from numbers import Integral
from typing import Annotated
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from receipts.models import HOTKEY_LENGTH

Hotkey = Annotated[str, StringConstraints(min_length=1, max_length=HOTKEY_LENGTH, pattern=r"^[^\s\x00-\x1f]+$")]
Time = Annotated[
    AwareDatetime,
    Field(strict=True, ge=dt.datetime(1970, 1, 1, tzinfo=dt.UTC), lt=dt.datetime(3000, 1, 1, tzinfo=dt.UTC)),
]
AnyInteger = BeforeValidator(lambda n: int(n) if isinstance(n, Integral) and not isinstance(n, bool) else n)
"""Take NumPy's integers for ints, which pydantic does not."""
Seconds = Annotated[int, Field(strict=True, ge=0, le=366 * 24 * 3600), AnyInteger]
Whole = Annotated[int, Field(strict=True, ge=0, le=2**63 - 1), AnyInteger]


class Receipt(BaseModel):
    """What all receipts say. See `receipts.models` for the meaning of the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    job_uuid: UUID
    miner_hotkey: Hotkey
    validator_hotkey: Hotkey
    timestamp: Time


class JobStarted(Receipt):
    """The validator sent the job; it keeps an executor of the class busy for `ttl` seconds."""

    executor_class: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[\w.\-]+$")]
    is_organic: Annotated[bool, Field(strict=True)] = True
    ttl: Seconds


class JobAccepted(Receipt):
    """The miner took the job; without a started receipt it keeps an executor busy for `ttl` seconds."""

    time_accepted: Time
    ttl: Seconds


class JobFinished(Receipt):
    """The job is over; `block_numbers` are the blocks of allowance that paid for it."""

    time_started: Time
    time_took_us: Whole
    score_str: Annotated[str, StringConstraints(max_length=64, pattern=r"^[^\x00]*$")] = ""
    block_numbers: list[Whole] = Field(default_factory=list)
