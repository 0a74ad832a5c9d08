"""Bounds on what the sockets of a process take on: beyond them a message is refused at once, not queued."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import Gauge

from routing.conf import conf
from routing.sockets.metrics import IN_FLIGHT


class Slots:
    """What may be in flight at once: as much as a setting says. A `gauge` shows it."""

    def __init__(self, name: str, gauge: Gauge | None = None) -> None:
        self._name = name
        self._gauge = gauge
        self._taken: set[Slot] = set()

    def take(self) -> Slot | None:
        """Take a slot, if there is one."""
        if len(self._taken) >= getattr(conf, self._name):
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
        self._per_second = conf.ROUTING_SOCKET_MESSAGES_PER_SECOND
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


process_slots = Slots("ROUTING_SOCKET_IN_FLIGHT", IN_FLIGHT)
"""What is in flight in this process, over all its sockets."""
