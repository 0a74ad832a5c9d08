"""Bounds on what one client may do: those of one process, and what all that is in Redis is called."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest
from django.core.checks import run_checks
from django.db import connection
from pytest_django import Settings

from routing import conf, news
from routing.quotas import MOST_REMEMBERED, Bound, Connections

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


def test_what_is_put_back_may_be_taken_again(clock: Clock) -> None:
    bound = Bound(MESSAGES, 60, clock)
    assert take(bound, times=3) == [None] * 3
    bound.put_back("token:anna")
    assert take(bound, times=2) == [None, 60.0]
    clock.now += 60
    bound.put_back("token:anna")  # of a time that is over
    assert take(bound, times=4) == [None, None, None, 60.0]


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
    assert [error.id for error in run_checks() if "ROUTING_REDIS_PREFIX" in error.msg] == ["routing.E020"]


@pytest.mark.parametrize("value", [-1, 1.5, True, "3", None])
def test_a_number_of_refusals_that_is_none_is_refused(value: object, settings: Settings) -> None:
    settings.ROUTING_REFUSALS_KEPT = value
    assert [error.id for error in run_checks() if "ROUTING_REFUSALS_KEPT" in error.msg] == ["routing.E011"]
