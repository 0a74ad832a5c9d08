"""Ask each miner for its executors, as ComputeHorde's validators do: over a WebSocket, with a signed first message.

A miner may be dead, slow, or lie. Then it does not answer, and other miners are asked as if it did not exist.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from allowance.follow.hotkey import Signer
from allowance.follow.sources import ChainBlock, Manifests, Neuron
from allowance.plumbing.targets import ForbiddenTarget, resolve
from allowance.types import is_reachable

logger = logging.getLogger(__name__)

AT_ONCE = 64
"""The number of miners that are asked at the same time."""

CONNECT, WHOLE, CLOSE = 5.0, 15.0, 1.0
"""Seconds: to connect, for the whole exchange (with the connecting), and then to close the connection."""

MAX_MESSAGE = 64 * 1024
"""Bytes."""

MAX_RECEIVED = MAX_MESSAGE + 32 * 1024
"""Bytes that a miner may send in all, so that pings and empty fragments cost little of this host's time."""

MAX_FRAGMENTS = 100
"""The number of fragments of messages that are read of a miner. An honest one sends few messages, of one fragment."""

MESSAGE_TOO_BIG = 1009
"""The code with which this side closes a connection if a message is too long."""

TOO_MUCH = "It sends too much."


class Silence(Exception):
    """A miner gives no manifest. The text is a phrase that says why."""


class Miners:
    """The miners themselves as the source of their executors.

    `silences` says for each miner that is registered, and that did not answer when it was last asked, why.
    """

    name = "miners"

    def __init__(
        self,
        signer: Signer,
        *,
        allow_private: bool = False,
        at_once: int = AT_ONCE,
        connect: float = CONNECT,
        whole: float = WHOLE,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Ask as the validator whose hotkey `signer` is.

        `connect` and `whole` are deadlines in seconds, per miner. `now` gives the Unix time that is signed. It is this
        host's, because the miners compare it to theirs: a miner refuses a time that is more than 10 s old.
        """
        self.signer, self.allow_private = signer, allow_private
        self.at_once, self.connect, self.whole, self.now = at_once, connect, whole, now
        self.silences: dict[str, str] = {}

    async def manifests(self, block: ChainBlock, miners: Sequence[Neuron]) -> Manifests:
        """Return the answers of the `miners` that answered."""
        registered = {neuron.hotkey for neuron in block.neurons}
        self.silences = {hotkey: reason for hotkey, reason in self.silences.items() if hotkey in registered}
        slots = asyncio.Semaphore(self.at_once)
        async with asyncio.TaskGroup() as group:
            tasks = {miner.hotkey: group.create_task(self._answer(miner, slots)) for miner in miners}
        answers = {hotkey: task.result() for hotkey, task in tasks.items()}
        return {hotkey: answer for hotkey, answer in answers.items() if answer is not None}

    async def _answer(self, miner: Neuron, slots: asyncio.Semaphore) -> Mapping[str, object] | None:
        """Return the manifest of a miner. If it gives none, note the reason."""
        async with slots:
            try:
                manifest = await self._ask(miner)
            except Exception as error:
                self.silences[miner.hotkey] = self._reason(miner, error)
                return None
        self.silences.pop(miner.hotkey, None)
        return manifest

    def _reason(self, miner: Neuron, error: Exception) -> str:
        """Return a phrase that says why a miner is silent. An error that is not foreseen is logged."""
        if isinstance(error, Silence | ForbiddenTarget):
            return str(error)
        if isinstance(error, TimeoutError):
            return f"It has not answered within {self.whole:g} s."
        if isinstance(error, OSError):
            return f"There is no connection: {error.strerror or error}."
        if isinstance(error, InvalidStatus):
            return f"It answers with HTTP status {error.response.status_code}, not with a WebSocket."
        if isinstance(error, ConnectionClosed) and error.sent and error.sent.code == MESSAGE_TOO_BIG:
            return TOO_MUCH
        if isinstance(error, ConnectionClosed):
            return "It has closed the connection."
        if isinstance(error, WebSocketException):
            return f"It does not speak WebSocket: {str(error)!r:.200}."
        logger.error("The miner %s can't be asked.", miner.hotkey, exc_info=error)  # the others must be asked even so
        return f"It can't be asked: {type(error).__name__}."

    async def _ask(self, miner: Neuron) -> Mapping[str, object]:
        """Return the manifest of a miner. Raises Silence or another error if it gives none."""
        if not is_reachable(miner.address, miner.ip_version, miner.port):
            raise Silence("It has no address.")
        async with asyncio.timeout(self.whole):
            connection = await self._open(miner)
            try:
                with contextlib.suppress(ConnectionClosed):  # it may have refused already, and said why
                    await connection.send(self._request(miner))
                manifest = await _read_manifest(connection)
            except BaseException as error:
                connection.transport.abort()  # do not wait until such a miner closes the connection
                if isinstance(error, ConnectionClosed) and connection.received > MAX_RECEIVED:
                    raise Silence(TOO_MUCH) from None
                raise
        await connection.close()
        return manifest

    async def _open(self, miner: Neuron) -> _Connection:
        host = f"[{miner.address}]" if ":" in miner.address else miner.address
        try:
            async with asyncio.timeout(self.connect):
                address = await resolve(miner.address, miner.port, allow_private=self.allow_private)
                connection = await _Connect(
                    f"ws://{host}:{miner.port}/v0.1/validator_interface/{self.signer.ss58_address}",
                    host=address,
                    port=miner.port,
                    open_timeout=None,
                    close_timeout=CLOSE,
                    ping_interval=None,
                    max_size=MAX_MESSAGE,
                    max_queue=4,
                    compression=None,
                    proxy=None,
                    create_connection=_Connection,
                )
                return cast(_Connection, connection)
        except TimeoutError:
            raise Silence(f"There is no connection within {self.connect:g} s.") from None

    def _request(self, miner: Neuron) -> str:
        """Return the signed request for the manifest."""
        validator, timestamp = self.signer.ss58_address, int(self.now())
        signature = self.signer.sign(f"{validator}:{miner.hotkey}:{timestamp}".encode())
        return json.dumps(
            {
                "message_type": "ValidatorAuthForMiner",
                "validator_hotkey": validator,
                "miner_hotkey": miner.hotkey,
                "timestamp": timestamp,
                "signature": f"0x{signature.hex()}",
            }
        )


class _Connect(connect):
    """A connection that follows no redirect: it could lead to an address that is not allowed."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class _Connection(ClientConnection):
    """A connection that ends if the other side sends too much. `received` is the number of bytes."""

    received = 0

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if self.received > MAX_RECEIVED:
            self.transport.abort()
        else:
            super().data_received(data)


async def _read_manifest(connection: ClientConnection) -> Mapping[str, object]:
    """Return the manifest among the messages of a miner. Raises Silence if it refuses, or sends anything else.

    Messages about its pending jobs are skipped.
    """
    async for raw in _messages(connection):
        try:
            message = json.loads(raw)
        except (ValueError, RecursionError):
            raise Silence("Its message is not JSON.") from None
        if not isinstance(message, dict):
            raise Silence("Its message is not a JSON object.")
        kind = message.get("message_type")
        if kind in ("GenericError", "UnauthorizedError"):
            details = message.get("details") or message.get("code") or kind
            raise Silence(f"It refuses to answer: {details!r:.200}.")
        if kind == "V0ExecutorManifestRequest":
            manifest = message.get("manifest")
            if not isinstance(manifest, dict):
                raise Silence("Its manifest is not a JSON object.")
            return manifest
    raise Silence(TOO_MUCH)


async def _messages(connection: ClientConnection) -> AsyncIterator[bytes]:
    """Return the messages of a miner, until it has sent too many fragments. Raises ConnectionClosed.

    They are read by fragments to count them, and because `recv` may raise AssertionError if it is cancelled: it does
    before version 17 of websockets.
    """
    count = 0
    while count < MAX_FRAGMENTS:
        fragments = []
        async for fragment in connection.recv_streaming(decode=False):
            fragments.append(fragment)
            count += 1
            if count > MAX_FRAGMENTS:
                return
        yield b"".join(fragments)
