"""Miners on loopback that do what a test says: they answer as ComputeHorde's miners do, refuse, lie, hang, or are dark.

They have real keys, and check the validator's request as real miners do. They run in a thread of their own, so a test
may script them while a follower in another process asks them.

    with ScriptedMiners(validator.ss58_address) as miners:
        miners[0].manifest = {"always_on.gpu-24gb": 2}
        miners[1].behaviour = Behaviour.HANGS
        miners.dark = True
"""

from __future__ import annotations

import asyncio
import http
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterator
from enum import Enum, auto
from types import TracebackType
from typing import Any

from bittensor_core import Keypair
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from allowance.follow.sources import Neuron

HOST = "127.0.0.1"
PATH = "/v0.1/validator_interface/"
RECEIPTS = "/receipts/"
MAX_AGE = 10
"""Seconds. A miner refuses a request that was signed earlier."""

SILENT = logging.getLogger("scripted miners")
SILENT.disabled = True  # a miner's complaints about its own bad behaviour are of no interest

DRIP = 0.01
"""Seconds between two bytes of a miner that drips."""


class Behaviour(Enum):
    """What a scripted miner does when it is asked."""

    ANSWERS = auto()
    TALKS = auto()
    """Sends other messages before and after its manifest, as a miner with pending jobs does."""

    REFUSES = auto()
    DOES_NOT_KNOW_US = auto()
    HANGS = auto()
    HANGS_AT_FIRST = auto()
    """Accepts the connection, but does not even answer the opening of the WebSocket."""

    CLOSES = auto()
    CLOSES_AT_FIRST = auto()
    NEVER_CLOSES = auto()
    """Answers, but leaves the closing handshake unanswered."""

    REDIRECTS = auto()
    """Redirects to `redirect`, which is a loopback address."""

    DRIPS = auto()
    DRIPS_AT_FIRST = auto()
    SENDS_NO_JSON = auto()
    SENDS_DEEP_JSON = auto()
    SENDS_A_LIST = auto()
    SENDS_BYTES = auto()
    SENDS_TOO_MUCH = auto()
    """Sends a manifest of 1 MB."""

    SENDS_NO_MAPPING = auto()
    SENDS_NO_MANIFEST = auto()
    """Sends other messages only, without an end."""

    SENDS_NOTHING_FOR_EVER = auto()
    """Sends one message of empty fragments, without an end."""

    PINGS = auto()
    """Sends pings only, without an end."""


LIES: dict[str, dict[str, Any]] = {
    "unknown class": {"made.up": 9, "always_on.gpu-24gb": 1},
    "negative": {"always_on.gpu-24gb": -1},
    "huge": {"always_on.gpu-24gb": 10**9},
    "bool": {"always_on.gpu-24gb": True},
    "fraction": {"always_on.gpu-24gb": 1.5},
    "text": {"always_on.gpu-24gb": "2"},
    "null": {"always_on.gpu-24gb": None},
    "nested": {"always_on.gpu-24gb": {"always_on.gpu-24gb": 1}},
    "strange names": {"": 1, "\0": 1, "\n": 1, "ALWAYS_ON.GPU-24GB": 1},
}
"""Manifests that a miner could invent."""

MESSAGES: dict[Behaviour, str | bytes] = {
    Behaviour.SENDS_NO_JSON: "executors: 2",
    Behaviour.SENDS_DEEP_JSON: "[" * 60_000,
    Behaviour.SENDS_A_LIST: "[]",
    Behaviour.SENDS_BYTES: bytes(range(256)),
    Behaviour.SENDS_NO_MAPPING: json.dumps({"message_type": "V0ExecutorManifestRequest", "manifest": [1]}),
}
ENDLESS = {Behaviour.SENDS_NO_MANIFEST, Behaviour.SENDS_NOTHING_FOR_EVER, Behaviour.PINGS}
OTHER_MESSAGE = {"message_type": "V0ExecutorReadyRequest", "job_uuid": "8c0a1fb6-1c4e-4d2a-9d0e-6f1f7e1f3a55"}
REFUSAL = {"message_type": "GenericError", "details": "Validator is blocked."}
UNAUTHORIZED = {"message_type": "UnauthorizedError", "code": "unknown_validator"}


class ScriptedMiner:
    """One miner. A test may change `manifest`, `behaviour` and `redirect` at any time.

    `pages` are the receipts that it serves, by page. `asked` counts the connections. `accepted` counts the requests
    that the miner has accepted, `refusals` has the reasons of the others.
    """

    def __init__(self, number: int, validator: str) -> None:
        self.number, self.validator = number, validator
        self.keypair = Keypair.create_from_uri(f"//Miner{number}")
        self.hotkey: str = self.keypair.ss58_address
        self.port = 0
        self.manifest: dict[str, Any] = {"always_on.gpu-24gb": 1}
        self.behaviour = Behaviour.ANSWERS
        self.redirect = f"http://{HOST}:1/"
        self.is_dark = False
        self.asked = self.accepted = 0
        self.refusals: list[str] = []
        self.headers: dict[str, str] = {}
        self.pages: dict[int, bytes] = {}

    def neuron(self, uid: int | None = None) -> Neuron:
        """Return the miner as the chain has it."""
        return Neuron(self.number if uid is None else uid, self.hotkey, HOST, 4, self.port, permit=False, stake=0)

    async def open(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer the opening of a WebSocket, or do not."""
        self.asked += 1
        self.headers = dict(request.headers.raw_items())
        if self.is_dark or self.behaviour is Behaviour.CLOSES_AT_FIRST:
            connection.transport.abort()
        if self.behaviour is Behaviour.HANGS_AT_FIRST:
            await connection.wait_closed()
        if self.behaviour is Behaviour.DRIPS_AT_FIRST:
            connection.transport.write(b"HTTP/1.1 101 ")
            while not connection.transport.is_closing():
                connection.transport.write(b"x")
                await asyncio.sleep(DRIP)
        if request.path.startswith(RECEIPTS):
            return self._page(connection, request)
        if self.behaviour is Behaviour.REDIRECTS:
            response = connection.respond(http.HTTPStatus.FOUND, "")
            response.headers["Location"] = self.redirect
            return response
        return None

    def _page(self, connection: ServerConnection, request: Request) -> Response:
        """Answer a request for a page of receipts as a miner's web server does: from the first byte asked for."""
        page = self.pages.get(int(request.path.removeprefix(RECEIPTS).removesuffix(".jsonl")))
        if page is None:
            return connection.respond(http.HTTPStatus.NOT_FOUND, "")
        seen = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if seen and seen >= len(page):
            response = connection.respond(http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "")
            response.headers["Content-Range"] = f"bytes */{len(page)}"
            return response
        response = connection.respond(http.HTTPStatus.PARTIAL_CONTENT if seen else http.HTTPStatus.OK, "")
        response.body = page[seen:]
        del response.headers["Content-Length"]
        response.headers["Content-Length"] = str(len(response.body))
        if seen:
            response.headers["Content-Range"] = f"bytes {seen}-{len(page) - 1}/{len(page)}"
        return response

    async def talk(self, connection: ServerConnection) -> None:
        """Do with a connection what the script says, and wait until it is closed."""
        try:
            await self._talk(connection)
            await connection.wait_closed()
        except ConnectionClosed:
            pass
        finally:
            connection.transport.abort()

    async def _talk(self, connection: ServerConnection) -> None:
        if self.behaviour is Behaviour.DOES_NOT_KNOW_US:
            await self._refuse(connection, UNAUTHORIZED)
            return
        if self.behaviour is Behaviour.TALKS:
            await connection.send(json.dumps(OTHER_MESSAGE))
        refusal = self.check(connection.request.path if connection.request else "", await connection.recv())
        if refusal:
            self.refusals.append(refusal)
            await self._refuse(connection, {"message_type": "GenericError", "details": refusal})
            return
        self.accepted += 1
        await self._answer(connection)

    async def _answer(self, connection: ServerConnection) -> None:
        answer = json.dumps({"message_type": "V0ExecutorManifestRequest", "manifest": self.manifest})
        behaviour = self.behaviour
        if behaviour in MESSAGES:
            await connection.send(MESSAGES[behaviour])
        elif behaviour is Behaviour.REFUSES:
            await self._refuse(connection, REFUSAL)
        elif behaviour is Behaviour.CLOSES:
            await connection.close()
        elif behaviour is Behaviour.DRIPS:
            await connection.send(_dripping(answer))
        elif behaviour is Behaviour.SENDS_TOO_MUCH:
            await connection.send(answer.replace("{", "{" + " " * 1_000_000, 1))
        elif behaviour in ENDLESS:
            await self._send_for_ever(connection)
        elif behaviour is Behaviour.NEVER_CLOSES:
            await connection.send(answer)
            connection.transport.pause_reading()
        elif behaviour is Behaviour.TALKS:
            for message in (OTHER_MESSAGE, OTHER_MESSAGE):
                await connection.send(json.dumps(message))
            await connection.send(answer)
            await connection.send(json.dumps(OTHER_MESSAGE))
        elif behaviour is not Behaviour.HANGS:
            await connection.send(answer)

    async def _send_for_ever(self, connection: ServerConnection) -> None:
        if self.behaviour is Behaviour.SENDS_NOTHING_FOR_EVER:
            await connection.send(_nothing())
        while self.behaviour is Behaviour.PINGS:
            await connection.ping()
        while self.behaviour is Behaviour.SENDS_NO_MANIFEST:
            await connection.send(json.dumps(OTHER_MESSAGE))

    async def _refuse(self, connection: ServerConnection, message: dict[str, str]) -> None:
        await connection.send(json.dumps(message))
        await connection.close(1000)

    def check(self, path: str, raw: str | bytes) -> str:
        """Return why a real miner would refuse the first message of a validator, or an empty text."""
        if path != PATH + self.validator:
            return f"Unknown validator: {path}"
        message = json.loads(raw)
        if message["message_type"] != "ValidatorAuthForMiner":
            return "The first message must authenticate the validator."
        if message["validator_hotkey"] != self.validator:
            return "Validator hotkey mismatch."
        if message["miner_hotkey"] != self.hotkey:
            return "Miner hotkey mismatch."
        if type(message["timestamp"]) is not int or message["timestamp"] < time.time() - MAX_AGE:
            return "The message is too old."
        signed = f"{message['validator_hotkey']}:{message['miner_hotkey']}:{message['timestamp']}".encode()
        signature = bytes.fromhex(message["signature"].removeprefix("0x"))
        if not message["signature"].startswith("0x") or not Keypair(ss58_address=self.validator).verify(
            signed, signature
        ):
            return "The signature is wrong."
        return ""


async def _dripping(text: str) -> AsyncIterator[str]:
    """Return the characters of a text, each in a fragment of its own, and then blanks for ever."""
    for character in text[:-1]:
        yield character
        await asyncio.sleep(DRIP)
    while True:
        yield " "
        await asyncio.sleep(DRIP)


async def _nothing() -> AsyncIterator[str]:
    while True:
        yield ""


class ScriptedMiners:
    """Miners in a thread, each at a port of its own. It is a context: they listen while it is entered."""

    def __init__(self, validator: str, count: int = 64) -> None:
        """Make miners that know the validator with the ss58 address `validator`."""
        self.miners = [ScriptedMiner(number, validator) for number in range(count)]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scripted miners", daemon=True)

    @property
    def dark(self) -> bool:
        """Whether all miners drop each connection."""
        return all(miner.is_dark for miner in self.miners)

    @dark.setter
    def dark(self, dark: bool) -> None:
        for miner in self.miners:
            miner.is_dark = dark

    def neurons(self) -> list[Neuron]:
        return [miner.neuron() for miner in self.miners]

    def __getitem__(self, number: int) -> ScriptedMiner:
        return self.miners[number]

    def __iter__(self) -> Iterator[ScriptedMiner]:
        return iter(self.miners)

    def __len__(self) -> int:
        return len(self.miners)

    def __enter__(self) -> ScriptedMiners:
        self._thread.start()
        self._servers = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> list[Server]:
        return [await self._serve(miner) for miner in self.miners]

    async def _serve(self, miner: ScriptedMiner) -> Server:
        server = await serve(
            miner.talk,
            HOST,
            miner.port,
            process_request=miner.open,
            open_timeout=None,
            ping_interval=None,
            close_timeout=1,
            logger=SILENT,
        )
        miner.port = server.sockets[0].getsockname()[1]
        return server

    async def _stop(self) -> None:
        """Stop listening, and end the connections that are open."""
        talks = asyncio.all_tasks() - {asyncio.current_task()}
        for server in self._servers:
            server.close(close_connections=False)
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks, *(server.wait_closed() for server in self._servers), return_exceptions=True)
