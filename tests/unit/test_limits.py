"""The bounds of sockets, by themselves."""

from __future__ import annotations

from pytest_django import Settings

from routing.sockets.quotas import Rate, Slots


def test_a_rate_is_refilled_as_time_goes_by(settings: Settings) -> None:
    settings.ROUTING_SOCKET_MESSAGES_PER_SECOND, now = 2, [0.0]
    rate = Rate(lambda: now[0])
    assert [rate.allow() for _ in range(3)] == [True, True, False]
    now[0] = 0.5
    assert [rate.allow() for _ in range(2)] == [True, False]
    now[0] = 1000
    assert [rate.allow() for _ in range(3)] == [True, True, False]


def test_a_slot_is_freed_once(settings: Settings) -> None:
    settings.ROUTING_SOCKET_IN_FLIGHT_EACH = 2
    slots = Slots("ROUTING_SOCKET_IN_FLIGHT_EACH")
    free, second = slots.take(), slots.take()
    assert free
    assert second
    assert slots.take() is None
    free()
    free()
    assert slots.take()
    assert slots.take() is None
