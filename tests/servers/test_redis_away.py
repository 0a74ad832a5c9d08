"""Redis stops, hangs, comes back: jobs are routed all the same, and afterwards there are news again, of them too."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import pytest
from websockets.asyncio.client import ClientConnection

from routing.sockets.messages import Routed
from tests.servers.client import PATIENCE, about, acknowledge, all_events, follow, hear_of, route, socket, until
from tests.servers.redis import Redis, own_redis
from tests.servers.server import Server, servers

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.asyncio,
    pytest.mark.usefixtures("ledger"),
]

Pair = tuple[Server, Server]
WARNING = "WARNING routing.sockets.news: The channel layer failed"


@pytest.fixture
def redis() -> Iterator[Redis]:
    with own_redis() as server:
        yield server


@pytest.fixture
def pair(redis: Redis, django_db_setup: None) -> Iterator[Pair]:
    with servers(2, REDIS_URL=redis.url) as (one, other):
        yield one, other
        # The layer itself complains of a connection that it lost, and that is all.
        errors = [line for line in one.troubles + other.troubles if not line.startswith("Traceback")]
        assert [line for line in errors if "ERROR channels_redis.pubsub:" not in line] == []


async def say_until_heard(speaker: ClientConnection, listener: ClientConnection, routed: Routed) -> None:
    """Say that a job was started, which changes nothing the next time, until a socket hears of it."""

    async def is_heard() -> bool:
        await acknowledge(speaker, about(routed, "job.started", validator_hotkey="our-validator"))
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await hear_of(listener, routed, "job.started")
                return True
        return False

    await until(is_heard)


async def test_a_redis_that_stops_and_starts_again(pair: Pair, redis: Redis, token: str) -> None:
    async def both_have_warned() -> bool:
        return all(WARNING in server.log for server in pair)

    async with (
        socket(pair[0], token) as one,
        socket(pair[1], token) as other,
        all_events(pair[1], token) as watching,
    ):
        before = await route(one)
        await hear_of(watching, before, "job.routed")
        redis.stop()
        meanwhile = await route(one)
        assert (await acknowledge(other, about(await route(other), "job.failed"))).reservation == "released"
        async with socket(pair[0], token, "events") as late:
            await until(both_have_warned)
            redis.start()
            for routed in (before, meanwhile):
                for listener in (one, watching, late):
                    await say_until_heard(other, listener, routed)
            after = await follow(one)
            await acknowledge(other, about(after, "job.failed"))
            for listener in (one, watching, late):
                await hear_of(listener, after, "job.failed")


async def test_a_redis_that_hangs_holds_up_nobody(pair: Pair, redis: Redis, token: str) -> None:
    async with socket(pair[0], token) as one, socket(pair[1], token) as other:
        await route(one)
        redis.hang(3600)
        async with asyncio.timeout(PATIENCE):  # if only every other answer waited for Redis, that would not do
            for _ in range(40):
                await route(one)
                await route(other)
