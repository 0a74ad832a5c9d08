"""Receipts from the pages of miners to the tables: the loop, with servers of pages on loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import UUID

import pytest
from bittensor_core import Keypair

from allowance.plumbing.threads import in_database_thread
from receipts import receipts
from receipts.transfer.intake import Intake
from receipts.transfer.loop import ReceiptsLoop
from receipts.transfer.pages import HttpPages, MinerAddress
from tests.clock import MINUTE, NOW, noon
from tests.ledgers import CLASS
from tests.live.pages import NGINX, Pages, answering, nginx, plain, ranges
from tests.receipts import MINER, VALIDATOR, started

pytestmark = [pytest.mark.live, pytest.mark.django_db(transaction=True), noon]

PAGE = int(NOW.timestamp()) // 300
KEYS = [Keypair.create_from_uri(f"//Miner{number}") for number in range(12)]


def text(keypair: Keypair, number: int) -> bytes:
    return b"".join(json.dumps(started(NOW - MINUTE, miner=keypair)).encode() + b"\n" for _ in range(number))


def routed(jobs: Collection[UUID]) -> Collection[UUID]:
    return ()


def busy() -> dict[str, int]:
    return receipts().get_busy_executor_count(CLASS, NOW)


@pytest.fixture(params=["nginx", "ranges"])
async def served(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pages]:
    if request.param == "nginx" and not NGINX:
        pytest.skip("nginx is not installed; the other server gives the same answers")
    async with (nginx if request.param == "nginx" else ranges)(tmp_path) as pages:
        yield pages


async def visit(loop: ReceiptsLoop) -> None:
    for shelf in loop._shelves.values():
        shelf.due = 0.0
    await loop.step()


async def test_the_loop_brings_what_miners_serve(served: Pages) -> None:
    """One miner is honest, and others lie or are dead. Only the receipts of the honest one count."""
    served.write(PAGE, text(MINER, 3))
    served.write(PAGE - 1, text(MINER, 2))
    served.write(PAGE - 3, text(MINER, 4))
    served.compress(PAGE - 3)
    miners = [served.miner]

    async def broken(writer: asyncio.StreamWriter) -> None:
        writer.write(plain(200, b"x\n" * 100)[:-50])

    async def redirect(writer: asyncio.StreamWriter) -> None:
        writer.write(plain(302, b"", f"Location: http://127.0.0.1:{served.miner.port}/receipts/{PAGE}.jsonl"))

    async def nonsense(writer: asyncio.StreamWriter) -> None:
        writer.write(plain(200, b"nonsense\n" * 1000))

    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x" * 10_000)
            await writer.drain()

    async def forged(writer: asyncio.StreamWriter) -> None:
        writer.write(plain(200, text(KEYS[4], 5).replace(b'"ttl": 300', b'"ttl": 999')))

    async def of_another(writer: asyncio.StreamWriter) -> None:
        writer.write(plain(200, text(MINER, 5)))

    async with AsyncExitStack() as stack:
        for keypair, answer in zip(KEYS, [broken, redirect, nonsense, endless, forged, of_another], strict=False):
            address = await stack.enter_async_context(answering(answer))
            miners.append(MinerAddress(keypair.ss58_address, *address[1:]))
        miners.append(MinerAddress(KEYS[10].ss58_address, "::1", 0))
        intake = Intake(own="5Own", validators=lambda: {VALIDATOR.ss58_address}, routed=routed)
        loop = ReceiptsLoop(HttpPages(allow_private=True), intake, lambda: miners)
        await loop.step()
        assert await in_database_thread(busy)() == {MINER.ss58_address: 5}
        served.write(PAGE, served.path(PAGE).read_bytes() + text(MINER, 1))
        await visit(loop)
        assert await in_database_thread(busy)() == {MINER.ss58_address: 10}
        detail = loop.detail
        await loop.close()
    told = detail["miners"]
    assert detail["taken"] == told[MINER.ss58_address]["taken"] == 10
    assert {hotkey for hotkey, of in told.items() if of["silent_since"]} == {
        KEYS[number].ss58_address for number in (0, 1, 3, 10)
    }
    assert set(detail["refused"]) == {"not_json", "unsigned", "other_miner"}
