"""More than 10,000 bad messages for one server: each is answered, none is an error in its log, and all goes on."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from allowance.models import ReservationState
from routing.sockets.messages import Refused, Rejected, Routed
from tests.ledgers import fill_ledger
from tests.servers.client import all_events, answer, closed_with, hear, hear_of, route, socket
from tests.servers.garbage import Data, every_field_replaced, mutated
from tests.servers.server import UNBOUNDED, UVICORN, Server, servers
from tests.sockets import job, reservations

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.asyncio]

SEED = 20260101
AT_ONCE = 50
MAX_SIZE = 2**21

INVALID_TEXT = "ERROR uvicorn.error: Invalid UTF-8 sequence received from client."
"""The server's own word on text that is none, with a traceback; it never reaches us."""


@pytest.fixture(scope="module")
def server(django_db_setup: None) -> Iterator[Server]:
    with servers(1, (*UVICORN, "--ws-max-size", str(MAX_SIZE)), **UNBOUNDED) as (server,):
        yield server
        assert len(server.troubles) == 2 * server.log.count(INVALID_TEXT)


@pytest.fixture(autouse=True)
def ledger(ledger_clean_at_the_end: None) -> None:
    """Have room for some thousand jobs: some messages are good after all."""
    fill_ledger(*(f"miner_{i}" for i in range(60)), blocks=61, executors=60)


@asynccontextmanager
async def fast(server: Server, token: str) -> AsyncIterator[ClientConnection]:
    async with socket(server, token, compression=None) as connection:
        yield connection


async def send_all(connection: ClientConnection, messages: Sequence[Data]) -> list[Routed]:
    """Send messages, each of which must be answered once, with a good one after some. Returns the routes."""
    routed = []
    for first in range(0, len(messages), AT_ONCE):
        some = messages[first : first + AT_ONCE]
        for message in some:
            await connection.send(message)
        answers = [await hear(connection) for _ in some]
        for each in answers:
            assert isinstance(each, Routed | Rejected | Refused)
            assert isinstance(each, Routed) or 0 < len(each.sentence) < 1000
        routed += [each for each in answers if isinstance(each, Routed)]
        good = job()
        routed.append(await route(connection, good))
        assert str(routed[-1].uuid) == good["uuid"]
    return routed


async def test_each_bad_message_is_answered_once_and_good_ones_are_routed_all_along(server: Server, token: str) -> None:
    rng = random.Random(SEED)
    messages = [*every_field_replaced(rng), *mutated(rng, 3000)]
    assert len(messages) > 10_000
    rng.shuffle(messages)
    async with (
        fast(server, token) as a,
        fast(server, token) as b,
        fast(server, token) as c,
        fast(server, token) as d,
    ):
        routes = await asyncio.gather(*(send_all(each, messages[i::4]) for i, each in enumerate((a, b, c, d))))
    told = {routed.allowance_reservation_id for each in routes for routed in each} - {None}
    held = await reservations()
    assert {row.state for row in held} == {ReservationState.HELD}
    assert {row.pk for row in held} == told


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"\xff", 1007),
        (b'{"uuid": "\xc3\x28"}', 1007),
        (b'"\xed\xa0\x80"', 1007),
        (b"\xf5\x80\x80\x80", 1007),
        (b" " * (MAX_SIZE + 1), 1009),
    ],
    ids=["no-utf8", "cut-short", "surrogate", "beyond-unicode", "too-big"],
)
async def test_text_that_is_none_or_too_big_closes_that_socket_only(
    server: Server, token: str, text: bytes, code: int
) -> None:
    async with fast(server, token) as other:
        async with fast(server, token) as connection:
            await route(connection)
            with suppress(ConnectionClosed):  # the server need not read it to its end
                await connection.send(text, text=True)
            assert await closed_with(connection) == code
        await route(other)
    async with fast(server, token) as again:
        await route(again)


NOTHING = b"\x80\x00\x00\x00\x00"
"""The rest of a frame without content, masked with nothing."""


@pytest.mark.parametrize(
    "frame",
    [b"\x81\x01x", b"\xc1" + NOTHING, b"\x83" + NOTHING, b"\x80" + NOTHING, b"\x09" + NOTHING],
    ids=["unmasked", "reserved-bit", "reserved-opcode", "nothing-to-continue", "fragmented-ping"],
)
async def test_a_broken_frame_closes_that_socket_only(server: Server, token: str, frame: bytes) -> None:
    async with fast(server, token) as other:
        async with fast(server, token) as connection:
            connection.transport.write(frame)
            assert await closed_with(connection) == 1002
        await route(other)


async def test_a_job_in_many_fragments_is_as_good(server: Server, token: str) -> None:
    request = job()
    async with fast(server, token) as connection:
        await connection.send(list(json.dumps(request)))
        routed = await answer(connection)
        assert isinstance(routed, Routed)
        assert str(routed.uuid) == request["uuid"]


async def test_whoever_follows_all_jobs_is_not_listened_to(server: Server, token: str) -> None:
    rng = random.Random(SEED)
    async with all_events(server, token) as watching, fast(server, token) as connection:
        for message in mutated(rng, 200):
            await watching.send(message)
        routed = await route(connection)
        assert (await hear_of(watching, routed, "job.routed")).miner == routed.miner.hotkey_ss58
    assert [row.pk for row in await reservations()] == [routed.allowance_reservation_id]
