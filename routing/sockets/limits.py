"""Bounds on what the sockets of a process take on: beyond them a message is refused at once, not queued."""

from __future__ import annotations

import time
from collections.abc import Callable

from django.conf import settings
from prometheus_client import Gauge

from routing.sockets.metrics import IN_FLIGHT

DEFAULTS: dict[str, float] = {
    "SOCKET_IN_FLIGHT": 64,
    "SOCKET_IN_FLIGHT_EACH": 16,
    "SOCKET_MESSAGES_PER_SECOND": 100,
    "SOCKET_SEND_SECONDS": 10,
    "SOCKET_RECHECK_SECONDS": 30,
    "ROUTING_CLIENT_CONNECTIONS": 200,
    "ROUTING_CLIENT_MESSAGES_PER_SECOND": 1000,
    "ROUTING_CLIENT_REFUSALS_PER_MINUTE": 600,
}
"""How many messages are worked on at once in a process, and for each connection; how many each may send in a second, in
the long run; how long it may take to read an answer; how often its right to be here is looked at again. Then what one
client may do over all its connections: see `routing.sockets.quotas`."""

LEAST = dict.fromkeys(DEFAULTS, 1) | {"SOCKET_SEND_SECONDS": 0.001, "SOCKET_RECHECK_SECONDS": 0.001}


def limit(name: str) -> float:
    """Return the setting of that name, or its default."""
    value: float = getattr(settings, name, DEFAULTS[name])
    return value


class Slots:
    """What may be in flight at once: as much as a setting says. A `gauge` shows it."""

    def __init__(self, name: str, gauge: Gauge | None = None) -> None:
        self._name = name
        self._gauge = gauge
        self._taken: set[Slot] = set()

    def take(self) -> Slot | None:
        """Take a slot, if there is one."""
        if len(self._taken) >= limit(self._name):
            return None
        slot = Slot(self)
        self._taken.add(slot)
        self._show()
        return slot

    def free(self, slot: Slot) -> None:
        """Make room for another; doing it again changes nothing."""
        self._taken.discard(slot)
        self._show()

    def _show(self) -> None:
        if self._gauge:
            self._gauge.set(len(self._taken))


class Slot:
    """One thing in flight."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots

    def free(self, *_: object) -> None:
        """Make room for another; doing it again changes nothing."""
        self._slots.free(self)


class Rate:
    """Allow so many messages in a second, in the long run, and as many at once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._per_second = limit("SOCKET_MESSAGES_PER_SECOND")
        self._left = self._per_second
        self._seen = clock()

    def allow(self) -> bool:
        """Tell whether one more message may be worked on, and count it."""
        now = self._clock()
        self._left = min(self._per_second, self._left + (now - self._seen) * self._per_second)
        self._seen = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


process_slots = Slots("SOCKET_IN_FLIGHT", IN_FLIGHT)
"""What is in flight in this process, over all its sockets."""
