"""The bounds of receipts, and the errors of this app."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from uuid import UUID

from allowance.plumbing.errors import RefusedError

HOTKEY_LENGTH = 48

MAX_TTL = 3700
"""The longest ttl (s) that is stored: the longest job, an hour, and 100 s of margin."""

MAX_AHEAD = dt.timedelta(seconds=60)
"""How far a receipt's timestamp may lie ahead of our clock."""

MAX_BLOCKS = 10_000
"""The maximum number of blocks of allowance that a receipt may name. ComputeHorde has the same limit."""


class ReceiptException(RefusedError):
    """The base class of the refusals of this app."""


class BadReceiptError(ReceiptException, ValueError):
    """A receipt, or the name, reason or time to void one, is invalid. The message names the value."""


class ReceiptAlreadyVoided(ReceiptException):
    """A receipt was voided before."""

    def __init__(self, receipt: object, by: str, at: dt.datetime) -> None:
        self.by = by
        self.at = at
        super().__init__(f"{receipt} was already voided by {by} at {at:%Y-%m-%d %H:%M:%S %Z}. There is nothing to do.")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A receipt that `record_many` did not store: its index in the list, its job if it names one, and the reason."""

    index: int
    job_uuid: UUID | None
    reason: str
