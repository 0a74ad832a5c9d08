"""Read the pages of receipts that miners serve over HTTP.

A page has the receipts of five minutes, a line each. The newest pages grow, so a reader asks for the bytes after those
that it has seen. A miner may answer anything: all that is read from it is bounded.
"""

from __future__ import annotations

import re
import ssl
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from allowance.plumbing.errors import RefusedError
from allowance.plumbing.targets import resolve

if TYPE_CHECKING:
    import httpx

PAGE_SECONDS = 300
"""The time (s) that a page covers. A page is named by the UNIX time divided by this."""

MOST_BYTES = 4 * 2**20
"""The maximum number of bytes that are read of one answer, after decompression."""

MOST_LINES = 20_000
"""The maximum number of lines that are read of one answer."""

LONGEST_LINE = 2**18
"""The maximum number of bytes of a line. The longest valid receipt, with 10,000 block numbers, has half as many."""

TIMEOUT = 3.0
"""The maximum time (s) to connect to a miner, and to wait for the next bytes of its answer."""

MOST_CONNECTIONS = 300
"""The maximum number of miners to which connections are kept open."""

_DRAINED = 2**14
"""The maximum number of bytes of an error page that are read. A connection can be used again after a whole answer."""

_CONTENT_RANGE = re.compile(r"bytes (\d{1,15})-\d{1,15}/(?:\d{1,15}|\*)")


class MinerAddress(NamedTuple):
    """A miner, and where it serves its receipts."""

    hotkey: str
    address: str
    port: int


class ReceiptSource(Protocol):
    """The pages of receipts of the miners. `name` is that of the adapter, for people."""

    name: str

    async def pages(self, miner: MinerAddress, page: int, offset: int) -> tuple[Sequence[bytes], int]:
        """Return the whole lines of a page after the first `offset` bytes, and the offset after these lines.

        There are at most MOST_LINES. A page that does not exist has no lines. The offset 0 without lines means that the
        page must be read from its beginning: it has become shorter, or was replaced. Raises PageError, ForbiddenTarget
        or OSError without a usable answer.
        """

    async def close(self) -> None:
        """Close the connections."""


class PageError(RefusedError):
    """A miner gave no usable answer. `reason` is a phrase that says why."""

    def __init__(self, miner: MinerAddress, page: int, reason: str) -> None:
        self.miner, self.page, self.reason = miner, page, reason
        super().__init__(f"Page {page} of the receipts of {miner.hotkey} can't be read: {reason:.200}.")


class NoAnswer(PageError):
    """A miner does not answer, or the connection broke. Later it may answer."""


class BadPage(PageError):
    """A miner answered what is no page of receipts."""


class HttpPages:
    """The pages over plain HTTP. It follows no redirect and uses no proxy. This needs the extra `live`.

    `allow_private` allows miners at loopback, private and link-local addresses. Each miner has a pool of connections of
    its own: the time that a request spends in a pool of httpx grows with the square of the connections in it.
    """

    name = "http"

    def __init__(self, *, allow_private: bool = False) -> None:
        import httpx  # noqa: PLC0415 (an extra)

        self._httpx = httpx
        self._allow_private = allow_private
        self._pools: OrderedDict[tuple[str, int], httpx.AsyncHTTPTransport] = OrderedDict()
        self._no_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # by default each pool would load all certificates

    async def pages(self, miner: MinerAddress, page: int, offset: int) -> tuple[Sequence[bytes], int]:
        address = await resolve(miner.address, miner.port, allow_private=self._allow_private)
        # A transport, unlike a client, keeps no cookies and logs no request.
        pool = await self._pool(address, miner.port)
        try:
            response = await pool.handle_async_request(self._request(address, miner.port, page, offset))
            try:
                return await _read(response, offset)
            finally:
                await response.aclose()
        except self._httpx.HTTPError as error:
            raise NoAnswer(miner, page, str(error) or type(error).__name__) from error
        except (_Unusable, zlib.error) as error:
            raise BadPage(miner, page, str(error)) from error

    async def close(self) -> None:
        while self._pools:
            _, pool = self._pools.popitem()
            await pool.aclose()

    async def _pool(self, address: str, port: int) -> httpx.AsyncHTTPTransport:
        pool = self._pools.pop((address, port), None)
        if pool is None:
            limits = self._httpx.Limits(max_connections=2, max_keepalive_connections=1, keepalive_expiry=60)
            pool = self._httpx.AsyncHTTPTransport(verify=self._no_tls, trust_env=False, limits=limits)
        self._pools[address, port] = pool
        if len(self._pools) > MOST_CONNECTIONS:
            _, unused = self._pools.popitem(last=False)
            await unused.aclose()
        return pool

    def _request(self, address: str, port: int, page: int, offset: int) -> httpx.Request:
        """Return the request for a page. The range begins with the last byte seen, a newline.

        So a page without news answers 206 with one byte. A page that became shorter answers 416, and one that was
        replaced has another byte there. nginx compresses no range, but other servers may, so compression is refused.
        """
        host = f"[{address}]" if ":" in address else address
        ranged = {"Accept-Encoding": "identity", "Range": f"bytes={offset - 1}-"}
        return self._httpx.Request(
            "GET",
            f"http://{host}:{port}/receipts/{page}.jsonl",
            headers=ranged if offset else {"Accept-Encoding": "gzip"},
            extensions={"timeout": self._httpx.Timeout(TIMEOUT).as_dict()},
        )


class _Unusable(Exception):
    """An answer is no page of receipts. The text is a phrase that says why."""


async def _read(response: httpx.Response, offset: int) -> tuple[Sequence[bytes], int]:
    status = response.status_code
    if status in (404, 416):
        await _drain(response)
        return [], 0
    if status == 200:  # a server may answer a range with the whole page; then at most MOST_BYTES of it can be read
        before = offset
    elif status == 206 and offset:
        found = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        if not found or int(found[1]) != offset - 1:
            raise _Unusable("the answer has another range than the one asked for")
        before = 1
    else:
        raise _Unusable(f"the answer has the status {status}")
    body = await _body(response)
    if before and body[before - 1 : before] != b"\n":
        return [], 0
    return _whole_lines(body[before:], offset)


async def _body(response: httpx.Response) -> bytes:
    """Return the decompressed body, or its first MOST_BYTES. Raises _Unusable at a line that is too long."""
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("gzip", "identity"):
        raise _Unusable(f"the answer has the encoding {coding:.20}, which was not asked for")
    unzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16) if coding == "gzip" else None
    body, received = bytearray(), 0
    async for chunk in response.aiter_raw():
        received += len(chunk)
        room = MOST_BYTES - len(body)
        body += unzip.decompress(chunk, room) if unzip else chunk[:room]
        if len(body) > LONGEST_LINE and body.find(b"\n", 1) < 0:  # the first byte may end the line before
            raise _Unusable(f"a line has more than {LONGEST_LINE} bytes")
        if max(len(body), received) >= MOST_BYTES:
            break
    return bytes(body)


def _whole_lines(body: bytes, offset: int) -> tuple[Sequence[bytes], int]:
    """Return the lines that end in `body`, at most MOST_LINES, and the offset after them."""
    lines = body[: body.rfind(b"\n") + 1].split(b"\n", MOST_LINES)[:-1]
    return lines, offset + len(lines) + sum(map(len, lines))


async def _drain(response: httpx.Response) -> None:
    """Read a short body, so that the connection can be used again."""
    received = 0
    async for chunk in response.aiter_raw():
        received += len(chunk)
        if received > _DRAINED:
            return
