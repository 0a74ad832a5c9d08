"""What a router's process does that is one of several: count what it is told."""

from __future__ import annotations

from routing.metrics import SECONDS_OF
from routing.sockets import metrics


def do(_: str, number: int) -> None:
    metrics.MESSAGES.labels("job.new").inc(number)
    SECONDS_OF["gather"].observe(number)
    metrics.SOCKETS.set(number)
