"""Servers of pages of receipts on loopback: nginx, as a miner has it, and one that answers as a test wants.

nginx's answers are those of Debian's nginx 1.22 on pages that ComputeHorde's own store wrote.
"""

from __future__ import annotations

import asyncio
import gzip
import re
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from receipts.transfer.pages import MinerAddress
from tests.receipts import MINER

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]

CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 128; }}
http {{
    access_log off;
    default_type application/octet-stream;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        root {folder}/root;
        gzip_static on;
    }}
}}
"""


class Pages:
    """The pages that a server serves: files in a folder. `asked` are the requests, if the server records them."""

    def __init__(self, folder: Path, port: int) -> None:
        self.miner = MinerAddress(MINER.ss58_address, "127.0.0.1", port)
        self.asked: list[str] = []
        self.connections = 0
        self._folder = folder / "root" / "receipts"
        self._folder.mkdir(parents=True, exist_ok=True)

    def path(self, page: int) -> Path:
        return self._folder / f"{page}.jsonl"

    def write(self, page: int, text: bytes) -> None:
        """Replace a page by a new file, as ComputeHorde's store does."""
        new = self.path(page).with_suffix(".new")
        new.write_bytes(text)
        new.replace(self.path(page))

    def compress(self, page: int) -> None:
        """Add the compressed page, as miners do when it no longer grows."""
        self.path(page).with_suffix(".jsonl.gz").write_bytes(gzip.compress(self.path(page).read_bytes()))


@asynccontextmanager
async def nginx(folder: Path) -> AsyncIterator[Pages]:
    """Serve pages with the nginx of this host."""
    assert NGINX
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pages = Pages(folder, port)
    configuration = folder / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder, port=port))
    process = await asyncio.create_subprocess_exec(
        *(NGINX, "-p", str(folder), "-c", str(configuration)), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(30):
            while not await _listens(port):
                assert process.returncode is None, "nginx has ended"
                await asyncio.sleep(0.02)
        yield pages
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@asynccontextmanager
async def ranges(folder: Path) -> AsyncIterator[Pages]:
    """Serve pages as nginx does, and record the requests."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pages.connections += 1
        while head := await _head(reader):
            pages.asked.append(head)
            writer.write(_answer(pages, head))
            await writer.drain()

    async with _listening(serve) as port:
        pages = Pages(folder, port)
        yield pages


def _answer(pages: Pages, head: str) -> bytes:
    found = re.match(r"GET /receipts/(\d+)\.jsonl HTTP/1.1\r\n", head)
    path = pages.path(int(found[1])) if found else None
    if path is None or not path.exists():
        return plain(404, b"<html>404 Not Found</html>")
    zipped, text = path.with_suffix(".jsonl.gz"), path.read_bytes()
    if "accept-encoding: gzip" in head.lower() and zipped.exists():
        return plain(200, zipped.read_bytes(), "Content-Encoding: gzip")
    wanted = re.search(r"\r\nrange: bytes=(\d+)-\r\n", head, re.IGNORECASE)
    if not wanted:
        return plain(200, text)
    first = int(wanted[1])
    if first >= len(text):
        return plain(416, b"<html>416</html>", f"Content-Range: bytes */{len(text)}")
    return plain(206, text[first:], f"Content-Range: bytes {first}-{len(text) - 1}/{len(text)}")


def plain(status: int, body: bytes, *headers: str) -> bytes:
    """Return an answer with a length."""
    lines = [f"HTTP/1.1 {status} Any", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[MinerAddress]:
    """Serve the same answer to all requests. The connection ends with it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _head(reader)
        await answer(writer)

    async with _listening(serve) as port:
        yield MinerAddress(MINER.ss58_address, "127.0.0.1", port)


@asynccontextmanager
async def _listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    serving: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        serving.add(task)
        try:
            await serve(reader, writer)
        except (OSError, asyncio.CancelledError):  # the client is gone, or the test is over
            pass
        finally:
            serving.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


async def _head(reader: asyncio.StreamReader) -> str:
    """Return the head of the next request, or an empty text at the end."""
    try:
        return (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return ""
