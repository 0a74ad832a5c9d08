"""Bounds on what one client may do: those of one process, and what all that is in Redis is called."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest
from django.core.checks import run_checks
from django.db import connection
from pytest_django import Settings

from routing import conf
from routing.sockets import news, quotas
from routing.sockets.quotas import MOST_REMEMBERED, Bound, Connections, Tally

MESSAGES = "ROUTING_CLIENT_MESSAGES_PER_SECOND"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(settings: Settings) -> Clock:
    settings.REDIS_URL = ""
    setattr(settings, MESSAGES, 3)
    return Clock()


def take(bound: Bound, client: str = "token:anna", times: int = 1) -> list[float | None]:
    async def taken() -> list[float | None]:
        return [await bound.take(client) for _ in range(times)]

    return asyncio.run(taken())


def test_a_client_may_do_so_much_and_then_waits_until_the_time_is_over(clock: Clock) -> None:
    bound = Bound(MESSAGES, 60, clock)
    assert take(bound, times=3) == [None] * 3
    clock.now += 20
    assert take(bound, times=2) == [40.0, 40.0]
    assert take(bound, "token:bert") == [None]
    assert take(bound, "user:anna") == [None]
    clock.now += 40
    assert take(bound, times=4) == [None, None, None, 60.0]


def test_what_has_happened_is_counted_until_the_time_is_over(clock: Clock) -> None:
    tally = Tally(MESSAGES, 60, clock)

    def waits(happened: int) -> float | None:
        async def count() -> None:
            for _ in range(happened):
                await tally.count("token:anna")

        asyncio.run(count())
        return tally.wait("token:anna")

    assert waits(0) is None
    assert waits(2) is None
    clock.now += 20
    assert waits(1) == 40.0
    assert tally.wait("token:bert") is None
    clock.now += 40
    assert waits(2) is None
    assert waits(2) == 60.0


class Redis:
    """A Redis that answers after a while, as TAKE and COUNT would; it counts how often it is asked."""

    def __init__(self) -> None:
        self.taken: dict[str, int] = {}
        self.asked = 0

    async def ask(self, script: str, key: str, *arguments: Any) -> tuple[int, float]:
        self.asked += 1
        await asyncio.sleep(0)
        before = self.taken.get(key, 0)
        if script == quotas.COUNT:
            granted = 1
        else:
            left = arguments[0] - before
            granted = max(0, min(left, max(1, left // arguments[1])))
        self.taken[key] = before + granted
        return (before + granted if script == quotas.COUNT else granted), 60_000.0


@pytest.fixture
def redis(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Redis:
    redis = Redis()
    monkeypatch.setattr(quotas, "_ask", redis.ask)
    return redis


async def take_at_once(bounds: list[Bound], times: int) -> list[float | None]:
    return await asyncio.gather(*(bound.take("token:anna") for bound in bounds for _ in range(times)))


def test_many_processes_with_a_message_each_use_no_bound_up(clock: Clock, redis: Redis, settings: Settings) -> None:
    setattr(settings, MESSAGES, 1000)
    processes = [Bound(MESSAGES, 1, clock) for _ in range(100)]
    assert asyncio.run(take_at_once(processes, 1)) == [None] * 100


def test_of_those_that_find_nothing_left_one_asks_for_more(clock: Clock, redis: Redis, settings: Settings) -> None:
    setattr(settings, MESSAGES, 1000)
    assert asyncio.run(take_at_once([Bound(MESSAGES, 1, clock)], 10)) == [None] * 10
    assert redis.asked == 1


def test_a_bound_is_used_up_to_its_end_and_no_further(clock: Clock, redis: Redis, settings: Settings) -> None:
    setattr(settings, MESSAGES, 10)
    told = asyncio.run(take_at_once([Bound(MESSAGES, 1, clock) for _ in range(3)], 5))
    assert told.count(None) == 10


def test_things_on_their_way_use_nothing_up(clock: Clock, redis: Redis) -> None:
    """Each process has all that is on its way; only what has happened counts, whoever counted it."""
    one, other = Tally(MESSAGES, 60, clock), Tally(MESSAGES, 60, clock)
    assert one.wait("token:anna") is other.wait("token:anna") is None
    for tally in (one, other, one):
        asyncio.run(tally.count("token:anna"))
    assert (one.wait("token:anna"), other.wait("token:anna")) == (60.0, None)
    asyncio.run(other.count("token:anna"))
    assert other.wait("token:anna") == 60.0


def test_clients_whose_time_is_over_are_forgotten(clock: Clock) -> None:
    bound = Bound(MESSAGES, 1, clock)
    for i in range(MOST_REMEMBERED):
        take(bound, f"token:{i}")
    clock.now += 2
    take(bound)
    assert len(bound._lots) == 1


def test_a_client_has_so_many_sockets(settings: Settings) -> None:
    settings.REDIS_URL, settings.ROUTING_CLIENT_CONNECTIONS = "", 2
    connections = Connections("ROUTING_CLIENT_CONNECTIONS")

    async def come_and_go() -> list[bool]:
        came = [await connections.enter("token:anna", name) for name in "abc"]
        came.append(await connections.enter("user:anna", "d"))
        await connections.leave("token:anna", "a")
        came.append(await connections.enter("token:anna", "c"))
        for name in "bc":
            await connections.leave("token:anna", name)
        return came

    assert asyncio.run(come_and_go()) == [True, True, False, True, True]
    assert connections._here == {"user:anna": {"d"}}


def prefix(settings: Settings, secret: str, database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    settings.SECRET_KEY = secret
    monkeypatch.setitem(connection.settings_dict, "NAME", database)
    return conf.redis_prefix()


def test_sites_have_prefixes_of_their_own_however_their_processes_reach_the_database(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = prefix(settings, "one", "router", monkeypatch)
    assert len({ours, prefix(settings, "two", "router", monkeypatch), prefix(settings, "one", "b", monkeypatch)}) == 3
    monkeypatch.setitem(connection.settings_dict, "HOST", "another-name-of-it")
    assert prefix(settings, "one", "router", monkeypatch) == ours


def test_all_groups_begin_with_the_prefix(settings: Settings) -> None:
    settings.ROUTING_REDIS_PREFIX = "x" * 40
    assert news.everything() == f"{'x' * 40}.jobs"
    assert news.group_of(UUID(int=1)) == f"{'x' * 40}.job.{1:032x}"
    assert len(news.group_of(UUID(int=1))) < 100  # as channel layers demand


@pytest.mark.parametrize("value", ["x" * 41, "a b", "a:b", "a\n", 7])
def test_a_prefix_that_no_group_can_have_is_refused(value: object, settings: Settings) -> None:
    settings.ROUTING_REDIS_PREFIX = value
    assert [error.id for error in run_checks() if "ROUTING_REDIS_PREFIX" in error.msg] == ["routing.E026"]


@pytest.mark.parametrize("value", [-1, 1.5, True, "3", None])
def test_a_number_of_refusals_that_is_none_is_refused(value: object, settings: Settings) -> None:
    settings.ROUTING_REFUSALS_KEPT = value
    assert [error.id for error in run_checks() if "ROUTING_REFUSALS_KEPT" in error.msg] == ["routing.E006"]
