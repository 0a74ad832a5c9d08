"""A client of the sockets, on the other side of a network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

from pydantic import Discriminator, TypeAdapter
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from routing.sockets.messages import Acknowledged, Happened, Refused, Rejected, Routed
from tests.programs import DEADLINE
from tests.servers.server import Server
from tests.sockets import JSON, job

Answer = Routed | Rejected | Acknowledged | Refused
Heard = Answer | Happened

PATIENCE = DEADLINE
"""Seconds to wait for what must come."""

OUTGOING: TypeAdapter[Heard] = TypeAdapter(Annotated[Heard, Discriminator("type")])
"""Whatever a server may send."""


@asynccontextmanager
async def socket(server: Server, token: str = "", path: str = "jobs", /, **how: Any) -> AsyncIterator[ClientConnection]:
    """Connect as the holder of a token; `how` is for the library."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    url = f"ws://127.0.0.1:{server.port}/ws/{path}/"
    how = {
        "additional_headers": headers,
        "proxy": None,
        "open_timeout": PATIENCE,
        "max_queue": None,
        "close_timeout": 1,
        **how,
    }
    async with connect(url, **how) as connection:
        yield connection


@asynccontextmanager
async def all_events(server: Server, token: str) -> AsyncIterator[ClientConnection]:
    """Follow all jobs. A client can't see when that begins, so jobs are routed until it hears of one."""
    async with socket(server, token, "events") as events:
        async with socket(server, token) as jobs:
            heard: object = None
            while not heard:
                await route(jobs, job(on_trusted_miner=True))
                with suppress(TimeoutError):
                    heard = await asyncio.wait_for(events.recv(), 0.1)
        yield events


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again, until it is so; that must come."""
    async with asyncio.timeout(PATIENCE):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.02)


async def say(connection: ClientConnection, message: JSON) -> None:
    await connection.send(json.dumps(message))


async def hear(connection: ClientConnection) -> Heard:
    """Return what comes next, which must be one of the messages there are."""
    async with asyncio.timeout(PATIENCE):
        return OUTGOING.validate_json(await connection.recv())


async def hear_of(connection: ClientConnection, about: Routed, kind: str) -> Happened:
    """Return the next news of that kind about a job; what else is told before is left out."""
    while True:
        told = await hear(connection)
        if isinstance(told, Happened) and (told.uuid, told.of) == (about.uuid, kind):
            return told


async def answer(connection: ClientConnection) -> Answer:
    """Return the next answer; what is told of others' doings before is left out."""
    while True:
        told = await hear(connection)
        if not isinstance(told, Happened):
            return told


async def ask(connection: ClientConnection, message: JSON) -> Answer:
    """Send a message, and return the answer."""
    await say(connection, message)
    return await answer(connection)


async def route(connection: ClientConnection, message: JSON | None = None) -> Routed:
    """Send a job, of 60 s if left out, that gets a route. Returns that."""
    routed = await ask(connection, message or job())
    assert isinstance(routed, Routed), routed
    return routed


async def follow(connection: ClientConnection) -> Routed:
    """Send a job that gets a route, and return that when the socket hears news of it.

    It does soon after the answer, which nobody can see; by the next answer it does for sure.
    """
    routed = await route(connection)
    await route(connection, job(on_trusted_miner=True))
    return routed


async def acknowledge(connection: ClientConnection, message: JSON) -> Acknowledged:
    """Say something of a job that is taken note of. Returns the acknowledgement."""
    acknowledged = await ask(connection, message)
    assert isinstance(acknowledged, Acknowledged), acknowledged
    return acknowledged


async def closed_with(connection: ClientConnection) -> int | None:
    """Read on until the server closes, and return the code."""
    async with asyncio.timeout(PATIENCE):
        try:
            while True:
                await connection.recv()
        except ConnectionClosed:
            return connection.close_code


def about(routed: Routed, kind: str, **more: object) -> JSON:
    """Return a message about a route."""
    reservation = routed.allowance_reservation_id
    return {"type": kind, "uuid": str(routed.uuid), "allowance_reservation_id": reservation, **more}


def finished(routed: Routed) -> JSON:
    """Return the message that a job is over and to be paid for."""
    return about(routed, "job.finished", validator_hotkey="our-validator", time_took_us=5_000_000)
