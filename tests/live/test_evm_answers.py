"""What the reader of collateral makes of answers that a good node does not give."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from allowance.follow.evm import CHUNK, Evm, NoEvmAnswer, OtherContract
from allowance.follow.sources import SourceBusy

pytestmark = pytest.mark.live

CONTRACT = "0x" + "c" * 40
ADDRESSES = [f"0x{n:040x}" for n in range(1, 5)]
WORD = "0x" + f"{7:064x}"
GOOD = {"eth_chainId": "0x3c4", "eth_getCode": "0x60", "eth_call": WORD}

Batch = list[dict[str, Any]]
Answer = Callable[[Batch], tuple[int, dict[str, str], bytes]]


@contextmanager
def node(answer: Answer) -> Iterator[tuple[str, list[Batch]]]:
    """Run an HTTP server that answers batches. Yield its address, and the batches that it got."""
    asked: list[Batch] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            batch = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append(batch)
            status, headers, body = answer(batch)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def result(call: dict[str, Any]) -> str:
    """Return what a good node answers to a call."""
    is_netuid = call["method"] == "eth_call" and call["params"][0]["data"] == "0x06016f71"
    return f"0x{12:064x}" if is_netuid else GOOD[call["method"]]


def good(batch: Batch) -> list[Any]:
    return [{"jsonrpc": "2.0", "id": call["id"], "result": result(call)} for call in batch]


def is_check(batch: Batch) -> bool:
    return str(batch[0]["method"]) == "eth_chainId"


def in_json(answers: object) -> tuple[int, dict[str, str], bytes]:
    return 200, {}, json.dumps(answers).encode()


async def read(url: str, addresses: list[str]) -> dict[str, int]:
    async def contract_at(_block: int) -> str:
        return CONTRACT

    source = Evm([url], contract_at, chain_id=964, netuid=12)
    try:
        return await source.collateral(77, addresses)
    finally:
        await source.close()


async def test_the_calls_are_those_of_the_contract_at_the_block() -> None:
    with node(lambda batch: in_json(good(batch))) as (url, asked):
        assert await read(url, ADDRESSES[:1]) == {ADDRESSES[0]: 7}
    data = "0xeeb97d3b" + "0" * 24 + ADDRESSES[0][2:]
    call = {"jsonrpc": "2.0", "id": 0, "method": "eth_call", "params": [{"to": CONTRACT, "data": data}, "0x4d"]}
    assert asked[1] == [call]


async def test_no_request_has_more_than_100_calls() -> None:
    many = [f"0x{n:040x}" for n in range(2 * CHUNK + 1)]
    with node(lambda batch: in_json(good(batch))) as (url, asked):
        assert await read(url, many) == dict.fromkeys(many, 7)
    assert [len(batch) for batch in asked] == [3, CHUNK, CHUNK, 1]


async def test_answers_are_matched_by_id() -> None:
    def backwards(batch: Batch) -> tuple[int, dict[str, str], bytes]:
        answers = good(batch)
        if not is_check(batch):
            answers = [{"id": call["id"], "result": f"0x{call['id']:064x}"} for call in batch]
        return in_json(answers[::-1])

    with node(backwards) as (url, _):
        assert await read(url, ADDRESSES) == {address: n for n, address in enumerate(ADDRESSES)}


BAD = {
    "no code": [{"id": 0, "result": "0x"}],
    "error": [{"id": 0, "error": {"code": -32602, "message": "BlockOutOfRange"}}],
    "null": [{"id": 0, "result": None}],
    "number": [{"id": 0, "result": 7}],
    "short": [{"id": 0, "result": "0x07"}],
    "long": [{"id": 0, "result": WORD + "00"}],
    "no hexadecimal digits": [{"id": 0, "result": "0x" + "_" * 64}],
    "missing": [],
    "no object": [None, 1, "x", []],
    "twice": [{"id": 0, "result": WORD}, {"id": 0, "result": WORD}],
    "id as text": [{"id": "0", "result": WORD}],
    "id as bool": [{"id": False, "result": WORD}],
    "id that was not asked": [{"id": 9, "result": WORD}, {"id": None, "result": WORD}],
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
async def test_a_bad_answer_is_unknown_and_leaves_the_others(bad: list[object]) -> None:
    def answer(batch: Batch) -> tuple[int, dict[str, str], bytes]:
        return in_json(good(batch) if is_check(batch) else [*bad, *good(batch)[1:]])

    with node(answer) as (url, _):
        assert await read(url, ADDRESSES) == dict.fromkeys(ADDRESSES[1:], 7)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((200, {}, b"<html>"), "not JSON"),
        ((200, {}, b"\xff\xfe\xfd"), "not JSON"),
        ((200, {}, b'{"error": {"code": -32600, "message": "no batches"}}'), "no batches"),
        ((502, {}, b""), "502"),
        ((307, {"Location": "http://127.0.0.1:1/"}, b""), "307"),
        ((200, {}, b"[]"), "eth_chainId"),
        ((200, {}, b'[{"id": 0, "result": "0x3c4"}]'), "eth_getCode"),
    ],
)
async def test_a_node_without_answers_is_told(answer: tuple[int, dict[str, str], bytes], reason: str) -> None:
    with node(lambda _: answer) as (url, asked), pytest.raises(NoEvmAnswer, match=reason) as refused:
        await read(url.replace("//", "//anna:secret@") + "/key", ADDRESSES)
    assert len(asked) == 1
    assert url in str(refused.value)
    assert "secret" not in str(refused.value)
    assert "key" not in str(refused.value)


@pytest.mark.parametrize(("header", "wait"), [({}, 60), ({"Retry-After": "90"}, 90), ({"Retry-After": "soon"}, 60)])
async def test_a_node_that_limits_calls_is_busy(header: dict[str, str], wait: float) -> None:
    with node(lambda _: (429, header, b"")) as (url, _), pytest.raises(SourceBusy) as refused:
        await read(url, ADDRESSES)
    assert refused.value.wait == wait


async def test_a_contract_that_does_not_answer_netuid_is_refused() -> None:
    with node(lambda batch: in_json(good(batch)[:2])) as (url, _), pytest.raises(OtherContract, match="no NETUID"):
        await read(url, ADDRESSES)


async def test_neither_a_proxy_nor_a_netrc_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with node(lambda batch: in_json(good(batch))) as (url, _):
        assert await read(url, ADDRESSES[:1]) == {ADDRESSES[0]: 7}
