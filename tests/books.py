"""Books of picks that others get in the way of."""

from __future__ import annotations

import datetime as dt
import math

from django.utils import timezone

from routing.decision.book import READINGS, LiveBook
from routing.decision.reading import Seen
from tests.ledgers import CLASS


class LateBook(LiveBook):
    """A book that decides by a reading from before the pick, as if the pick had been slow, and then waits for locks."""

    def __init__(self) -> None:
        super().__init__()
        self.late = super().read(CLASS, timezone.now())

    def read(self, executor_class: str, now: dt.datetime | None) -> Seen:
        self.seen, self.readings, self.good_until = self.late, READINGS, math.inf
        return self.late
