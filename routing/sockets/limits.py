"""Limits on the messages in flight and on their rate. A message beyond a limit is refused at once, not queued."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import Gauge

from routing.conf import conf
from routing.sockets.metrics import IN_FLIGHT


class Slots:
    """Slots for messages in flight, as many as the setting `name` allows. A `gauge` shows how many are taken."""

    def __init__(self, name: str, gauge: Gauge | None = None) -> None:
        self._name = name
        self._gauge = gauge
        self._taken: set[Slot] = set()

    def take(self) -> Slot | None:
        """Take a slot. Return None if all are taken."""
        if len(self._taken) >= getattr(conf, self._name):
            return None
        slot = Slot(self)
        self._taken.add(slot)
        self._show()
        return slot

    def free(self, slot: Slot) -> None:
        """Free the slot. Freeing it again changes nothing."""
        self._taken.discard(slot)
        self._show()

    def _show(self) -> None:
        if self._gauge:
            self._gauge.set(len(self._taken))


class Slot:
    """A slot for one message in flight."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots

    def free(self, *_: object) -> None:
        """Free the slot. Freeing it again changes nothing."""
        self._slots.free(self)


class Rate:
    """A token bucket: ROUTING_SOCKET_MESSAGES_PER_SECOND on average, and bursts of the same number."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._per_second = conf.ROUTING_SOCKET_MESSAGES_PER_SECOND
        self._left = self._per_second
        self._seen = clock()

    def allow(self) -> bool:
        """Return whether one more message is allowed, and count it if it is."""
        now = self._clock()
        self._left = min(self._per_second, self._left + (now - self._seen) * self._per_second)
        self._seen = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


process_slots = Slots("ROUTING_SOCKET_IN_FLIGHT", IN_FLIGHT)
"""The slots of this process, for all its sockets."""
