"""A connection to a node of the chain, through the library bittensor (extra `live`).

It uses the layer below bittensor's Client. The Client would look up a block's hash again for each value, and it decodes
the answers to runtime calls at the block of an upgrade with the wrong runtime. Importing this module takes seconds.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from bittensor._transport import SubstrateConnection
from bittensor._transport.errors import (
    BlockNotFound,
    RpcPolicyRejection,
    StateDiscardedError,
    SubstrateRequestException,
)
from bittensor._transport.rpc import RpcSession, _default_connect
from bittensor._transport.runtime import RuntimeManager
from bittensor._transport.runtime_api import call_runtime_api
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, WebSocketException

from allowance.follow.sources import (
    NOWHERE,
    BlockUnreadable,
    ChainBlock,
    Head,
    Neuron,
    SourceBusy,
    SourceError,
    StateDiscarded,
)

logging.getLogger("bittensor").propagate = False  # the follower reports each failure itself

Answer = TypeVar("Answer")

HOTKEYS, AXONS, PERMITS, STAKES = COLUMNS = [52, 55, 57, 69]
"""The indexes of the metagraph's columns that are read."""

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

PAGE = 1_000
"""The maximum number of keys that a node returns in an answer."""

SILENCE = 15.0
"""The time (s) without any answer after which the connection is made anew."""

GOODBYE = 1.0
"""The maximum time (s) for closing a connection properly."""

BEHIND = 50
"""How many blocks a node behind the same address may be behind another one. It does not know the newest blocks then."""

REFUSALS = {-32004, -32005, 429}
"""The codes of errors by which nodes refuse calls because of their rate limit or policy."""

NO_HEADER = ("UnknownBlock", "Unknown block")
"""What a node says about a block whose header it does not have."""


class Socket:
    """A WebSocket for bittensor's session. A graceful close is an error like any other, and closing takes no longer
    than GOODBYE.

    The session of bittensor 11.3 waits without end for its pending answers after a graceful close.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    @classmethod
    async def open(cls, url: str) -> Socket:
        """Connect to a node. Raises RpcPolicyRejection if it refuses, and other errors if there is no connection."""
        return cls(await _default_connect(url))

    async def send(self, message: str) -> None:
        await self._socket.send(message)

    async def recv(self) -> str | bytes:
        try:
            return await self._socket.recv()
        except ConnectionClosedOK as error:
            raise ConnectionClosedError(error.rcvd, error.sent, error.rcvd_then_sent) from error

    async def close(self) -> None:
        try:
            async with asyncio.timeout(GOODBYE):
                await self._socket.close()
        except TimeoutError:
            self._socket.transport.abort()


class OwnRuntimes(RuntimeManager):  # type: ignore[misc]
    """The runtimes in the states of blocks.

    RuntimeManager gives the runtime that has executed a block. That is right for stored values. A runtime call at a
    block is answered by the runtime in its state, which is another one at the block of an upgrade.
    """

    async def _parent_hash(self, block_hash: str) -> str:
        return block_hash


class Connection:
    """A connection to one node. `name` is for people. All methods raise SourceError, a subclass, or OSError."""

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self._url = url
        self._node = SubstrateConnection(url, max_retries=3, response_timeout=SILENCE, connect_factory=Socket.open)
        self._session: RpcSession = self._node._session
        self._runtimes = OwnRuntimes(self._session)
        self._runtimes._codecs = self._node._runtimes._codecs
        self._newest = 0

    async def open(self) -> None:
        """Connect, and read the types of the runtime."""
        with self._translated():
            await self._node.initialize()

    async def close(self) -> None:
        """Close the connection. Calls in flight raise SourceError."""
        with suppress(Exception):  # it is thrown away, whatever state it is in
            async with asyncio.timeout(2 * GOODBYE):
                await self._node.close()

    async def genesis(self) -> str:
        """Return the hash of block 0."""
        with self._translated():
            found: str = await self._node.genesis_hash()
            return found

    async def latest(self) -> Head:
        """Return the newest finalized block."""
        with self._translated():
            block_hash = await self._node.get_chain_finalised_head()
            head = Head(await self._node.get_block_number(block_hash), block_hash)
            self._newest = max(self._newest, head.number)
            return head

    async def hash(self, number: int) -> str:
        """Return the hash of a block, which a node knows even if it has discarded the state."""
        with self._translated():
            found: str = await self._node.get_block_hash(number)
            return found

    async def block(self, number: int, netuid: int) -> ChainBlock:
        """Return a block with the neurons of a subnet. Raises StateDiscarded or BlockUnreadable."""

        async def read(block_hash: str) -> ChainBlock:
            header, codec = await asyncio.gather(
                self._session.request("chain_getHeader", [block_hash]), self._runtimes.codec_at(block_hash)
            )
            moment, metagraph = await asyncio.gather(
                self._node.query("Timestamp", "Now", [], block_hash),
                call_runtime_api(
                    self._session,
                    codec,
                    "SubnetInfoRuntimeApi",
                    "get_selective_metagraph",
                    [netuid, COLUMNS],
                    block_hash,
                ),
            )
            if metagraph is None:
                raise SourceError(f"The chain has no subnet {netuid} at block {number}. Correct NETUID.")
            return ChainBlock(
                number=number,
                hash=block_hash,
                parent=header["parentHash"],
                timestamp=EPOCH + dt.timedelta(milliseconds=moment),
                neurons=_neurons(metagraph),
            )

        return await self._at(number, read)

    async def commitments(self, number: int, netuid: int) -> dict[str, bytes]:
        """Return what the hotkeys of a subnet have published at a block."""

        async def read(block_hash: str) -> dict[str, bytes]:
            found = await self._map("Commitments", "CommitmentOf", netuid, block_hash)
            return {hotkey: b"".join(map(_content, value["info"]["fields"])) for hotkey, value in found}

        return await self._at(number, read)

    async def evm_addresses(self, number: int, netuid: int) -> dict[int, str]:
        """Return the EVM addresses that are associated with the neurons of a subnet at a block, by uid."""

        async def read(block_hash: str) -> dict[int, str]:
            found = await self._map("SubtensorModule", "AssociatedEvmAddress", netuid, block_hash)
            return {uid: address.lower() for uid, (address, _since) in found}

        return await self._at(number, read)

    async def _map(self, pallet: str, item: str, netuid: int, block_hash: str) -> list[tuple[Any, Any]]:
        found = await self._node.query_map(pallet, item, [netuid], block_hash, page_size=PAGE)
        return [pair async for pair in found]

    async def _at(self, number: int, read: Callable[[str], Awaitable[Answer]]) -> Answer:
        """Return what `read` finds in the state after a block."""
        block_hash = None
        try:
            with self._translated(number):
                block_hash = await self._node.get_block_hash(number)
                return await read(block_hash)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:  # of decoding
            raise BlockUnreadable(number, await self._runtime(block_hash), str(error) or repr(error)) from error

    async def _runtime(self, block_hash: str | None) -> int | None:
        """Return the version of the runtime in the state of a block, or None if it is unknown."""
        with suppress(SubstrateRequestException, TypeError, LookupError):  # the other error matters more
            found: int = (await self._session.request("state_getRuntimeVersion", [block_hash]))["specVersion"]
            return found
        return None

    @contextmanager
    def _translated(self, number: int | None = None) -> Iterator[None]:
        """Raise the follower's errors for those of bittensor. `number` is the block that is read."""
        try:
            yield
        except RpcPolicyRejection as error:
            raise SourceBusy(self.name, _seconds(error.retry_after), self._said(error)) from error
        except (StateDiscardedError, BlockNotFound) as error:
            if number is None or (isinstance(error, BlockNotFound) and not self._is_old(number)):
                raise SourceError(f"{self.name} does not have block {number or ''}: {self._said(error)}.") from error
            raise StateDiscarded(number) from error
        except SubstrateRequestException as error:
            if _code(error) in REFUSALS:
                raise SourceBusy(self.name, 0, self._said(error)) from error
            if number is not None and self._is_old(number) and any(text in str(error) for text in NO_HEADER):
                raise StateDiscarded(number) from error
            raise SourceError(f"{self.name} gave no answer: {self._said(error)}.") from error
        except WebSocketException as error:
            raise SourceError(f"{self.name} gave no answer: {self._said(error)}.") from error

    def _is_old(self, number: int) -> bool:
        """Return whether a node that does not know a block has discarded it, and is not just behind another node."""
        return number < self._newest - BEHIND

    def _said(self, error: Exception) -> str:
        """Return the text of an error without the address, which may have a password or a token in it."""
        return str(error).replace(self._url, self.name).rstrip(".")


def _neurons(metagraph: Mapping[str, Any]) -> tuple[Neuron, ...]:
    """Return the neurons of a metagraph, whose columns are ordered by uid. Raises ValueError for unequal columns."""
    columns = [metagraph[name] for name in ("hotkeys", "axons", "validator_permit", "total_stake")]
    return tuple(
        Neuron(uid, hotkey, *_place(axon), permit=permit, stake=stake)
        for uid, (hotkey, axon, permit, stake) in enumerate(zip(*columns, strict=True))
    )


def _place(axon: Mapping[str, int]) -> tuple[str, int, int]:
    """Return the address, IP version and port at which a neuron says that it listens."""
    with suppress(ValueError):  # a number that is no address
        match axon:
            case {"ip": ip, "ip_type": 4, "port": port} if ip and port:
                return str(ipaddress.IPv4Address(ip)), 4, port
            case {"ip": ip, "ip_type": 6, "port": port} if ip and port:
                return str(ipaddress.IPv6Address(ip)), 6, port
    return NOWHERE["address"], NOWHERE["ip_version"], NOWHERE["port"]


def _content(field: object) -> bytes:
    """Return the bytes of a data field of a commitment. Hashes, flags and encrypted fields have none."""
    if not isinstance(field, dict):
        return b""
    [(kind, value)] = field.items()
    if "Raw" not in kind:
        return b""
    if not isinstance(value, str):
        return bytes(value)
    return bytes.fromhex(value[2:]) if value.startswith("0x") else value.encode()


def _seconds(retry_after: str | None) -> float:
    """Return the seconds that a node asks to wait, or 0 if it names no number."""
    with suppress(TypeError, ValueError):
        return float(retry_after or 0)
    return 0.0


def _code(error: SubstrateRequestException) -> int | None:
    """Return the code of a JSON-RPC error."""
    found = (error.payload or {}).get("error")
    code = found.get("code") if isinstance(found, dict) else None
    return code if isinstance(code, int) else None
