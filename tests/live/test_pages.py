"""Pages of receipts over HTTP: as nginx serves them, and as a miner that lies may."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from allowance.plumbing.targets import ForbiddenTarget
from receipts.transfer import pages as transfer
from receipts.transfer.pages import LONGEST_LINE, MOST_BYTES, MOST_LINES, BadPage, HttpPages, MinerAddress, NoAnswer
from tests.clock import NOW
from tests.live.pages import NGINX, Answer, Pages, answering, nginx, plain, ranges
from tests.receipts import MINER, started

pytestmark = pytest.mark.live

PAGE = int(NOW.timestamp()) // 300


@pytest.fixture
async def source() -> AsyncIterator[HttpPages]:
    source = HttpPages(allow_private=True)
    yield source
    await source.close()


@pytest.fixture(params=["nginx", "ranges"])
async def served(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pages]:
    if request.param == "nginx" and not NGINX:
        pytest.skip("nginx is not installed; the other server gives the same answers")
    async with (nginx if request.param == "nginx" else ranges)(tmp_path) as pages:
        yield pages


@pytest.fixture
async def recorded(tmp_path: Path) -> AsyncIterator[Pages]:
    async with ranges(tmp_path) as pages:
        yield pages


def line() -> bytes:
    return json.dumps(started(NOW)).encode()


def text(*lines: bytes) -> bytes:
    return b"".join(one + b"\n" for one in lines)


async def test_a_page_that_grows_is_read_once(served: Pages, source: HttpPages) -> None:
    first, second, third = line(), line(), line()
    served.write(PAGE, text(first, second))
    lines, offset = await source.pages(served.miner, PAGE, 0)
    assert (lines, offset) == ([first, second], len(text(first, second)))
    assert await source.pages(served.miner, PAGE, offset) == ([], offset)
    served.write(PAGE, text(first, second, third))
    lines, offset = await source.pages(served.miner, PAGE, offset)
    assert (lines, offset) == ([third], len(text(first, second, third)))
    assert await source.pages(served.miner, PAGE, offset) == ([], offset)


async def test_a_page_that_is_compressed_is_the_same_page(served: Pages, source: HttpPages) -> None:
    first, second = line(), line()
    served.write(PAGE, text(first, second))
    served.compress(PAGE)
    lines, offset = await source.pages(served.miner, PAGE, 0)
    assert (lines, offset) == ([first, second], len(text(first, second)))
    assert await source.pages(served.miner, PAGE, offset) == ([], offset)
    assert await source.pages(served.miner, PAGE, len(text(first))) == ([second], offset)


async def test_no_page_has_no_lines(served: Pages, source: HttpPages) -> None:
    assert await source.pages(served.miner, PAGE, 0) == ([], 0)
    assert await source.pages(served.miner, PAGE, 700) == ([], 0)


async def test_a_line_is_read_when_it_is_whole(served: Pages, source: HttpPages) -> None:
    first, second = line(), line()
    served.write(PAGE, text(first) + second[:40])
    lines, offset = await source.pages(served.miner, PAGE, 0)
    assert (lines, offset) == ([first], len(text(first)))
    assert await source.pages(served.miner, PAGE, offset) == ([], offset)
    served.write(PAGE, text(first, second))
    assert await source.pages(served.miner, PAGE, offset) == ([second], len(text(first, second)))
    served.write(PAGE + 1, first)
    assert await source.pages(served.miner, PAGE + 1, 0) == ([], 0)


async def test_a_page_that_became_shorter_is_read_from_its_beginning(served: Pages, source: HttpPages) -> None:
    first, second = line(), line()
    served.write(PAGE, text(first, second))
    _, offset = await source.pages(served.miner, PAGE, 0)
    served.write(PAGE, text(second))
    assert await source.pages(served.miner, PAGE, offset) == ([], 0)
    assert await source.pages(served.miner, PAGE, 0) == ([second], len(text(second)))


async def test_a_page_that_was_replaced_by_a_longer_one_is_read_from_its_beginning(
    served: Pages, source: HttpPages
) -> None:
    served.write(PAGE, text(b"1", b"2"))
    _, offset = await source.pages(served.miner, PAGE, 0)
    served.write(PAGE, text(line(), line()))
    assert await source.pages(served.miner, PAGE, offset) == ([], 0)


async def test_an_answer_has_at_most_so_many_lines(served: Pages, source: HttpPages) -> None:
    served.write(PAGE, text(*(str(number).encode() for number in range(MOST_LINES + 1))))
    lines, offset = await source.pages(served.miner, PAGE, 0)
    assert len(lines) == MOST_LINES
    assert lines[-1] == b"19999"
    assert await source.pages(served.miner, PAGE, offset) == ([b"20000"], offset + 6)


async def test_an_answer_has_at_most_so_many_bytes(served: Pages, source: HttpPages) -> None:
    row = b"r" * 99_999
    served.write(PAGE, text(*[row] * 50))
    lines, offset = await source.pages(served.miner, PAGE, 0)
    assert len(lines) == offset // 100_000 == MOST_BYTES // 100_000
    rest, end = await source.pages(served.miner, PAGE, offset)
    assert len(lines) + len(rest) == 50
    assert end == 5_000_000


async def test_the_requests_are_those_of_the_contract(recorded: Pages, source: HttpPages) -> None:
    recorded.write(PAGE, text(line()))
    _, offset = await source.pages(recorded.miner, PAGE, 0)
    await source.pages(recorded.miner, PAGE, offset)
    first, second = (request.lower() for request in recorded.asked)
    assert first.startswith(f"get /receipts/{PAGE}.jsonl http/1.1\r\n")
    assert "accept-encoding: gzip\r\n" in first
    assert "range" not in first
    assert f"range: bytes={offset - 1}-\r\n" in second
    assert "accept-encoding: identity\r\n" in second


async def test_one_connection_serves_many_requests(recorded: Pages, source: HttpPages) -> None:
    recorded.write(PAGE, text(line()))
    _, offset = await source.pages(recorded.miner, PAGE, 0)
    for page, seen in [(PAGE, offset), (PAGE - 1, 0), (PAGE - 1, offset), (PAGE, offset + 9_999)]:
        await source.pages(recorded.miner, page, seen)
    assert len(recorded.asked) == 5
    assert recorded.connections == 1


async def test_connections_to_miners_that_were_asked_long_ago_are_closed(
    recorded: Pages, source: HttpPages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "MOST_CONNECTIONS", 1)

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(plain(404, b""))

    async with answering(answer) as other:
        for miner in (recorded.miner, recorded.miner, other, recorded.miner):
            await source.pages(miner, PAGE, 0)
    assert recorded.connections == 2


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "10.1.2.3", "169.254.1.1", "localhost", "0.0.0.1", "::ffff:127.0.0.1"]
)
async def test_a_miner_can_t_name_an_address_inside_this_network(address: str) -> None:
    source = HttpPages()
    with pytest.raises(ForbiddenTarget):
        await source.pages(MinerAddress(MINER.ss58_address, address, 80), PAGE, 0)
    await source.close()


async def test_no_redirect_is_followed(recorded: Pages, source: HttpPages) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        location = f"Location: http://127.0.0.1:{recorded.miner.port}/receipts/{PAGE}.jsonl"
        writer.write(plain(302, b"", location, "Set-Cookie: a=b"))

    recorded.write(PAGE, text(line()))
    async with answering(answer) as miner:
        with pytest.raises(BadPage, match="status 302"):
            await source.pages(miner, PAGE, 0)
    assert recorded.asked == []


async def test_no_proxy_is_used(recorded: Pages, source: HttpPages, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert await source.pages(recorded.miner, PAGE, 0) == ([], 0)


async def test_a_server_that_ignores_the_range_is_read_from_the_offset(source: HttpPages) -> None:
    first, second = line(), line()
    for body in (
        plain(200, text(first, second)),
        plain(200, gzip.compress(text(first, second)), "Content-Encoding: gzip"),
    ):

        async def answer(writer: asyncio.StreamWriter, body: bytes = body) -> None:
            writer.write(body)

        async with answering(answer) as miner:
            end = len(text(first, second))
            assert await source.pages(miner, PAGE, len(text(first))) == ([second], end)
            assert await source.pages(miner, PAGE, end) == ([], end)
            assert await source.pages(miner, PAGE, end + 1) == ([], 0)


BAD = {
    "another range": plain(206, b"\n", "Content-Range: bytes 5-5/6"),
    "no range": plain(206, b"\n"),
    "a range that is none": plain(206, b"\n", "Content-Range: bytes 99-"),
    "a huge range": plain(206, b"\n", f"Content-Range: bytes {'9' * 5000}-9/9"),
    "an encoding": plain(200, b"x\n", "Content-Encoding: br"),
    "no gzip": plain(200, b"x\n" * 100, "Content-Encoding: gzip"),
    "an error": plain(500, b"x" * 100),
    "a refusal": plain(403, b"x\n"),
    "not modified": plain(304, b""),
    "an endless line": plain(200, b"x" * (LONGEST_LINE + 100_000)),
    "an endless line after a newline": plain(
        206, b"\n" + b"x" * (LONGEST_LINE + 100_000), "Content-Range: bytes 99-99/*"
    ),
}


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD.keys())
async def test_another_answer_is_no_page(answer: bytes, source: HttpPages) -> None:
    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    async with answering(write) as miner:
        with pytest.raises(BadPage) as refusal:
            await source.pages(miner, PAGE, 100)
    assert len(str(refusal.value)) < 400


BROKEN = {
    "nothing": b"",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "bytes of no meaning": bytes(range(256)) * 200,
    "half an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx\n",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "endless headers": b"HTTP/1.1 200 OK\r\n" + b"X-Header: x\r\n" * 100_000,
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
    "bad chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
async def test_what_is_no_answer_is_the_fault_of_the_miner(answer: bytes, source: HttpPages) -> None:
    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.write_eof()

    async with answering(write) as miner:
        with pytest.raises(NoAnswer):
            await source.pages(miner, PAGE, 0)


async def test_a_miner_that_does_not_listen_gives_no_answer(source: HttpPages) -> None:
    async with answering(silence) as miner:
        pass
    with pytest.raises(NoAnswer):
        await source.pages(miner, PAGE, 0)


async def silence(writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def half_and_silence(writer: asyncio.StreamWriter) -> None:
    writer.write(plain(200, b"x\n" * 100)[:-50])
    await asyncio.Event().wait()


@pytest.mark.parametrize("answer", [silence, half_and_silence])
async def test_silence_ends_at_a_timeout(answer: Answer, source: HttpPages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "TIMEOUT", 0.2)
    async with answering(answer) as miner:
        with pytest.raises(NoAnswer):
            await source.pages(miner, PAGE, 0)


async def test_a_slow_drip_ends_at_the_deadline_of_the_call(source: HttpPages) -> None:
    """Each byte is in time, so only the caller's deadline ends it. The next request has a new connection."""
    received = asyncio.Event()

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x\n")
            await writer.drain()
            received.set()
            await asyncio.sleep(0.01)

    async with answering(drip) as miner:
        for _ in range(3):
            received.clear()
            reading = asyncio.create_task(source.pages(miner, PAGE, 0))
            await received.wait()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reading, 0.1)


async def test_a_bomb_takes_little_memory(source: HttpPages) -> None:
    """A gigabyte of zeros is a megabyte of gzip. It is a line without an end."""

    async def bomb(writer: asyncio.StreamWriter) -> None:
        zipped = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n")
        for _ in range(1024):
            writer.write(zipped.compress(bytes(2**20)))
            await writer.drain()
            await asyncio.sleep(0)

    async with answering(bomb) as miner:
        tracemalloc.start()
        try:
            with pytest.raises(BadPage, match="a line has more than"):
                await source.pages(miner, PAGE, 0)
            assert tracemalloc.get_traced_memory()[1] < 2**24
        finally:
            tracemalloc.stop()


async def test_a_bomb_of_lines_is_cut(source: HttpPages) -> None:
    zipped = gzip.compress(b"x\n" * 2**26)

    async def bomb(writer: asyncio.StreamWriter) -> None:
        writer.write(plain(200, zipped, "Content-Encoding: gzip"))

    async with answering(bomb) as miner:
        lines, offset = await source.pages(miner, PAGE, 0)
    assert (len(lines), offset) == (MOST_LINES, 2 * MOST_LINES)


async def test_an_endless_answer_is_cut(source: HttpPages) -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.is_closing():
            writer.write((b"r" * 999 + b"\n") * 100)
            await writer.drain()

    async with answering(endless) as miner:
        lines, offset = await source.pages(miner, PAGE, 0)
    assert offset == 1000 * len(lines)
    assert MOST_BYTES - 1000 < offset <= MOST_BYTES
