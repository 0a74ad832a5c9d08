"""What one client does is not another's trouble: too much, too slow, or gone in the middle."""

from __future__ import annotations

import asyncio
import json
import re
import socket as sockets
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Event

import pytest
from django.db import connection, transaction
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from allowance.models import Account, ReservationState
from routing.models import RoutedJob
from routing.requests import MAX_MESSAGE_LENGTH
from routing.sockets.messages import Refused, Rejected, Routed
from tests.programs import DEADLINE
from tests.servers.client import (
    PATIENCE,
    all_events,
    answer,
    ask,
    closed_with,
    route,
    say,
    socket,
    until,
)
from tests.servers.server import Server, servers
from tests.sockets import JSON, job, reservations

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.asyncio,
    pytest.mark.usefixtures("ledger"),
]

RATE = 60
"""Messages that each socket may send in a second."""

SOON = 60.0
"""Seconds that an answer takes at most on the busiest machine; if others held it up it would take minutes."""


@pytest.fixture(scope="module")
def server(django_db_setup: None) -> Iterator[Server]:
    limits = {
        "ROUTING_SOCKET_IN_FLIGHT_EACH": 2,
        "ROUTING_SOCKET_MESSAGES_PER_SECOND": RATE,
        "ROUTING_SOCKET_SEND_SECONDS": 0.5,
    }
    with servers(1, **limits) as (server,):
        yield server
        assert server.troubles == []


@contextmanager
def ledger_locked() -> Iterator[None]:
    """Keep accounts and jobs locked: whoever routes meanwhile is in the middle of it until the end of this context."""
    locked, go_on = Event(), Event()

    def keep() -> None:
        try:
            with transaction.atomic():  # on SQLite to begin is to lock
                list(Account.objects.select_for_update())
                list(RoutedJob.objects.select_for_update())
                locked.set()
                assert go_on.wait(DEADLINE)
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as thread:
        kept = thread.submit(keep)
        try:
            assert locked.wait(DEADLINE)
            yield
        finally:
            go_on.set()
            kept.result(DEADLINE)


async def measured(server: Server, token: str, name: str) -> float:
    """Return what a server says of itself now."""
    page = await asyncio.to_thread(server.get, "/metrics", token)
    return float(re.findall(rf"^{name} (\S+)$", page, re.MULTILINE)[0])


async def become(server: Server, token: str, name: str, value: float) -> None:
    """Wait until a server says that of itself."""

    async def is_so() -> bool:
        return await measured(server, token, name) == value

    await until(is_so)


async def hang_up_in_the_middle(server: Server, token: str, messages: Sequence[JSON], *, others: int = 0) -> None:
    """Send messages, no more than are worked on at once, and be gone before they are answered; `others` stay."""
    await become(server, token, "router_sockets", others)
    with ledger_locked():
        async with socket(server, token) as goes:
            for message in messages:
                await say(goes, message)
            await become(server, token, "router_in_flight", len(messages))
            goes.transport.abort()
        await become(server, token, "router_sockets", others)


async def held() -> set[int]:
    return {row.pk for row in await reservations() if row.state == ReservationState.HELD}


async def test_what_is_too_much_at_once_is_refused_and_the_rest_routed(server: Server, token: str) -> None:
    jobs = [job() for _ in range(50)]
    async with socket(server, token) as connection:
        with ledger_locked():
            for request in jobs:
                await say(connection, request)
            refused = [await answer(connection) for _ in jobs[2:]]
        routed = [await answer(connection) for _ in range(2)]
        assert [type(each) for each in routed] == [Routed] * 2
        assert {str(each.uuid) for each in refused + routed} == {request["uuid"] for request in jobs}
        for each in refused:
            assert isinstance(each, Rejected)
            assert (each.reason, each.counts) == ("OVERLOADED", {})
            assert (each.retry_after_seconds or 0) > 0
        await route(connection, jobs[-1])
    assert len(await reservations()) == 3


async def test_who_sends_too_fast_is_told_so_and_heard_again_later(server: Server, token: str) -> None:
    many = RATE * 10
    async with socket(server, token) as connection, socket(server, token) as other:
        for _ in range(many):
            await connection.send("nonsense")
        answers = [await answer(connection) for _ in range(many)]
        await route(other)
        reasons = Counter(str(each.reason) for each in answers if isinstance(each, Refused))
        assert reasons.keys() == {"BAD_MESSAGE", "RATE_LIMITED"}
        assert reasons.total() == many
        assert reasons["BAD_MESSAGE"] >= RATE
        async with asyncio.timeout(PATIENCE):
            while not isinstance(again := await ask(connection, job()), Routed):
                assert isinstance(again, Refused)
                assert again.reason == "RATE_LIMITED"
                assert (again.retry_after_seconds or 0) > 0


MANY = {f"{i:x}": 1 for i in range(100_000)}
FAULTY = {
    "fields": MANY,
    "variables": job(env=MANY),
    "patterns": job(volume={"volume_type": "huggingface_volume", "repo_id": "a", "allow_patterns": [1] * 300_000}),
}


@pytest.mark.parametrize("many", FAULTY)
async def test_a_message_with_a_great_many_faults_holds_up_nobody(server: Server, token: str, many: str) -> None:
    text = json.dumps(FAULTY[many], separators=(",", ":"))
    assert len(text) < MAX_MESSAGE_LENGTH
    async with socket(server, token, compression=None) as faulty, socket(server, token) as other:
        for _ in range(10):
            await faulty.send(text)
        async with asyncio.timeout(SOON):
            await route(other)
        for _ in range(10):
            refused = await answer(faulty)
            assert isinstance(refused, Refused | Rejected)
            assert (refused.reason, len(refused.sentence) < 1000) == ("BAD_MESSAGE", True)


async def test_who_does_not_read_is_closed_and_nobody_waits_for_that(server: Server, token: str) -> None:
    """Send without a pause and read nothing, until no more can be sent: other clients are answered all the while."""

    async def others_are_served_until_it_is_noticed() -> bool:
        async with asyncio.timeout(SOON):
            await route(other, job(on_trusted_miner=True))
        return "did not read a message in time" in server.log

    with sockets.socket() as narrow:
        narrow.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 2048)
        narrow.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_MAXSEG, 536)  # or the server's system buffers megabytes
        narrow.connect(("127.0.0.1", server.port))
        narrow.setblocking(False)
        how = {"sock": narrow, "compression": None, "ping_interval": None}
        async with socket(server, token) as other, socket(server, token, **how) as lazy:
            await become(server, token, "router_sockets", 2)
            lazy.transport.pause_reading()
            flood = asyncio.create_task(send_forever(lazy))
            await until(others_are_served_until_it_is_noticed)
            await become(server, token, "router_sockets", 1)
            flood.cancel()
            lazy.transport.resume_reading()
            assert await closed_with(lazy) in {4408, 1006}  # there may have been no room for a code
            await route(other)


async def send_forever(connection: ClientConnection) -> None:
    with suppress(ConnectionClosed):
        while True:
            await connection.send("x")
            await asyncio.sleep(0)


async def test_who_hangs_up_in_the_middle_of_a_pick_holds_nothing(server: Server, token: str) -> None:
    jobs = [job(), job()]
    await hang_up_in_the_middle(server, token, jobs)

    async def all_are_given_back() -> bool:
        return {row.state for row in await reservations()} == {ReservationState.RELEASED}

    await until(all_are_given_back)
    async with socket(server, token) as connection:
        assert {(await route(connection, request)).allowance_reservation_id for request in jobs} == await held()


async def test_who_hangs_up_before_a_route_is_told_again_ends_it_for_nobody(server: Server, token: str) -> None:
    jobs = [job(), job()]
    async with socket(server, token) as stays:
        routed = [await route(stays, request) for request in jobs]
        await hang_up_in_the_middle(server, token, jobs, others=1)
        for _ in range(5):
            assert [await route(stays, request) for request in jobs] == routed
    assert await held() == {each.allowance_reservation_id for each in routed}


async def test_a_server_that_is_told_to_end_closes_its_sockets_and_gives_back_what_nobody_was_told(
    server: Server, token: str
) -> None:
    with servers(1) as (ending,):
        async with socket(ending, token) as connection, all_events(ending, token) as watching:
            told = await route(connection)
            with ledger_locked():
                await say(connection, job())
                await become(ending, token, "router_in_flight", 1)
                ending.process.terminate()
                assert [await closed_with(each) for each in (connection, watching)] == [1012] * 2
            await asyncio.to_thread(ending.process.wait, PATIENCE)
        assert ending.troubles == []
    assert await held() == {told.allowance_reservation_id}
