"""The chain as subtensor nodes tell it: the adapter `subtensor` of the follower (extra `live`)."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from allowance.follow.sources import ChainBlock, Head, SourceError, StateDiscarded
from allowance.plumbing.calls import DEADLINE

if TYPE_CHECKING:
    from allowance.follow.connection import Connection

Answer = TypeVar("Answer")

OWN_PACE, PUBLIC_PACE = 4.0, 1.0
"""How many blocks a second may be read to fill gaps, from a node of one's own and from a public one."""


class LibraryMissing(SourceError):
    """The library bittensor is not installed, or it is a release that the adapter does not know."""

    wait = 60.0

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"The source subtensor needs bittensor 11.3: install the extra `live`. {reason}")


class Subtensor:
    """The chain through subtensor nodes: the first of `urls` that works, and `archive` for discarded states.

    It uses one node at a time. After a failure to connect, and at `renew`, it goes on to the next of `urls`.
    """

    deadline = DEADLINE

    def __init__(self, urls: Sequence[str], archive: str, netuid: int) -> None:
        self._urls, self._archive_url, self._netuid = list(urls), archive, netuid
        self._turn = 0
        self._node: Connection | None = None
        self._archive: Connection | None = None
        self._opening = asyncio.Lock()
        self.name, self.pace = name_of(self._urls[0]), pace_of(self._urls[0])

    async def genesis(self) -> str:
        """Return the hash of block 0."""
        return await (await self._connected()).genesis()

    async def latest(self) -> Head:
        """Return the newest finalized block."""
        return await (await self._connected()).latest()

    async def hash(self, number: int) -> str:
        """Return the hash of a finalized block."""
        return await (await self._connected()).hash(number)

    async def block(self, number: int) -> ChainBlock:
        """Return a finalized block. Raises StateDiscarded or BlockUnreadable if this block can't be read."""
        return await self._read(lambda node: node.block(number, self._netuid))

    async def commitments(self, number: int) -> dict[str, bytes]:
        """Return what hotkeys have published at a block: the raw bytes of all fields, joined, by hotkey."""
        return await self._read(lambda node: node.commitments(number, self._netuid))

    async def evm_addresses(self, number: int) -> dict[int, str]:
        """Return the EVM addresses associated with neurons at a block, by uid."""
        return await self._read(lambda node: node.evm_addresses(number, self._netuid))

    async def renew(self) -> None:
        """Throw the connections away. The next call connects to the next node."""
        if self._node:  # else the last try to connect has gone on to the next node already
            self._advance()
        await self.close()

    async def close(self) -> None:
        """Close the connections. This takes a few seconds at most, whatever the nodes do."""
        connections, self._node, self._archive = (self._node, self._archive), None, None
        await asyncio.gather(*(connection.close() for connection in connections if connection))

    async def _read(self, read: Callable[[Connection], Awaitable[Answer]]) -> Answer:
        """Return what is read from the node, or from the archive if the node has discarded the state."""
        try:
            return await read(await self._connected())
        except StateDiscarded:
            if not self._archive_url:
                raise
        async with self._opening:
            if not self._archive:
                self._archive = await _open(self._archive_url)
            archive = self._archive
        return await read(archive)

    async def _connected(self) -> Connection:
        async with self._opening:
            if not self._node:
                try:
                    self._node = await _open(self._urls[self._turn])
                except BaseException:  # a cancellation too: that is how a deadline ends a call
                    self._advance()
                    raise
            return self._node

    def _advance(self) -> None:
        self._turn = (self._turn + 1) % len(self._urls)
        url = self._urls[self._turn]
        self.name, self.pace = name_of(url), pace_of(url)


async def _open(url: str) -> Connection:
    """Return a connection to a node. Raises LibraryMissing, SourceError or OSError."""
    try:
        connection_class = await asyncio.to_thread(_library)  # this takes seconds the first time
    except ImportError as error:
        raise LibraryMissing(str(error)) from error
    connection = connection_class(url, name_of(url))
    try:
        await connection.open()
    except BaseException:
        await connection.close()
        raise
    return connection


def _library() -> type[Connection]:
    from allowance.follow.connection import Connection  # noqa: PLC0415 (an extra)

    return Connection


def name_of(url: str) -> str:
    """Return the name of a node for people: its address without user, password, path and query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"subtensor {parts.scheme}://{host}"


def pace_of(url: str) -> float:
    """Return how many blocks a second may be read from a node to fill gaps."""
    host = urlsplit(url).hostname or ""
    with suppress(ValueError):
        return OWN_PACE if ipaddress.ip_address(host).is_private else PUBLIC_PACE
    return PUBLIC_PACE if "." in host else OWN_PACE  # localhost, or the name of a container
