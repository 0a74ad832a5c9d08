"""Books of picks that others get in the way of."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

from django.utils import timezone

from routing.decision.book import LiveBook
from tests.ledgers import CLASS


class LateBook(LiveBook):
    """Reads now, and takes that for what it reads later: what a pick has read may be old once it has the account."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = super().read(CLASS, timezone.now())
        self.good_until = math.inf

    def read(self, executor_class: str, now: dt.datetime) -> Any:
        return self.seen
