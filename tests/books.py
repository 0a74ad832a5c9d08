"""Books of picks that others get in the way of."""

from __future__ import annotations

import datetime as dt
import math

from django.utils import timezone

from routing.decision.book import READINGS, LiveBook
from routing.decision.reading import Seen
from tests.ledgers import CLASS


class LateBook(LiveBook):
    """Takes what it reads now for its last reading: what a pick has read may be old when it waits for a lock."""

    def __init__(self) -> None:
        super().__init__()
        self.late = super().read(CLASS, timezone.now())

    def read(self, executor_class: str, now: dt.datetime) -> Seen:
        self.seen, self.readings, self.good_until = self.late, READINGS, math.inf
        return self.late
