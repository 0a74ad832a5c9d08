"""A Pylon service on loopback: it tells a scripted chain as Pylon documents it, and refuses as Pylon does.

The paths and forms are those that the client 2.3.1 asks for and reads. `behind` is a real service of an older version:
what that answers itself is fetched from it, and only the calls about blocks are answered here.
"""

from __future__ import annotations

import json
import re
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from allowance.follow.sources import Neuron
from tests.live.chain import NETUID, Chain

IDENTITY, IDENTITY_TOKEN, OPEN_ACCESS_TOKEN = "router", "identity-token", "open-access-token"

WHOSE = rf"(?P<whose>/identity/{IDENTITY}|/openaccess|)/subnet/{NETUID}"


class Answer(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, detail: str) -> None:
        self.status, self.detail = status, detail
        super().__init__(detail)


class Service:
    """A Pylon service of a chain. A test may change these at any time.

    `faults` maps a part of a path to the status and detail of the answer. `body` replaces the body of every good
    answer. `is_old` leaves out what came after service version 0.3. `asked` counts the calls by path.
    """

    def __init__(self, chain: Chain, *, behind: str = "") -> None:
        self.chain, self.behind = chain, behind
        self.identity_netuid = NETUID
        self.shielded: dict[str, str] = {}
        """The addresses that only the identity is told, by hotkey."""
        self.faults: dict[str, tuple[int, str]] = {}
        self.body: bytes | None = None
        self.is_old = False
        self.time_call = "Timestamp", "set"
        self.asked: Counter[str] = Counter()
        self.url = ""

    def answer(self, path: str, token: str) -> Any:
        """Return the answer to a call. Raises Answer if it is none of 200."""
        self.asked[path] += 1
        for part, (status, detail) in self.faults.items():
            if part in path:
                raise Answer(status, detail)
        if path in ("/api/v1/identities", "/api/_unstable/identities") and not self.is_old:
            return {"identities": {IDENTITY: self.identity_netuid}}
        if path == "/api/v1/block/latest" and not self.is_old:
            _admit(token, OPEN_ACCESS_TOKEN)
            return {**self._block(self.chain.head), "timestamp": int(self._time(self.chain.head)) // 1000}
        if (found := re.fullmatch(r"/api/v1/block/(\d+)/extrinsic/0", path)) and not self.is_old:
            _admit(token, OPEN_ACCESS_TOKEN)
            return self._time_extrinsic(int(found[1]))
        if self.behind:
            return _fetched(self.behind + path)
        if found := re.fullmatch(rf"/api/v1{WHOSE}/block/(?P<number>\d+)/neurons", path):
            is_identity = _admit(token, OPEN_ACCESS_TOKEN, found["whose"])
            return self._neurons(int(found["number"]), is_identity)
        if found := re.fullmatch(rf"/api/v1{WHOSE}/block/latest/commitments", path):
            _admit(token, OPEN_ACCESS_TOKEN, found["whose"])
            told = {hotkey: "0x" + data.hex() for hotkey, data in self.chain.commitments.items()}
            return {"block": self._block(self.chain.head), "commitments": told}
        if (found := re.fullmatch(rf"/api/_unstable{WHOSE}/block/latest/evm_associations", path)) and not self.is_old:
            _admit(token, OPEN_ACCESS_TOKEN, found["whose"])
            return {"block": self._block(self.chain.head), "evm_associations": self._associations()}
        raise Answer(404, "Not Found")

    def _block(self, number: int) -> dict[str, Any]:
        try:
            return {"number": number, "hash": self.chain.state(number).block.hash}
        except LookupError:
            raise Answer(404, f"Block {number} not found.") from None

    def _time(self, number: int) -> int:
        return round(self.chain.state(number).block.timestamp.timestamp() * 1000)

    def _time_extrinsic(self, number: int) -> dict[str, Any]:
        module, function = self.time_call
        now = {"name": "now", "type": "Moment", "value": self._time(self._block(number)["number"])}
        return {
            "block_number": number,
            "extrinsic_index": 0,
            "extrinsic_hash": "0x" + "ab" * 32,
            "extrinsic_length": 10,
            "address": None,
            "call": {"call_module": module, "call_function": function, "call_args": [now], "call_index": "0x0200"},
        }

    def _neurons(self, number: int, is_identity: bool) -> dict[str, Any]:
        block = self._block(number)
        told = {}
        for neuron in self.chain.state(number).block.neurons:
            address = self.shielded.get(neuron.hotkey) if is_identity else None
            told[neuron.hotkey] = _neuron(neuron, address or neuron.address)
        return {"block": block, "neurons": told}

    def _associations(self) -> dict[str, Any]:
        hotkeys = {neuron.uid: neuron.hotkey for neuron in self.chain.neurons}
        return {
            hotkeys.get(uid, f"deregistered {uid}"): {
                "hotkey": hotkeys.get(uid, f"deregistered {uid}"),
                "evm_address": address,
                "last_block_where_ownership_was_proven": self.chain.first,
            }
            for uid, address in self.chain.evm.items()
        }


def _neuron(neuron: Neuron, address: str) -> dict[str, Any]:
    total = neuron.stake / 10**9
    zeros = ("rank", "emission", "incentive", "consensus", "trust", "validator_trust", "dividends", "pruning_score")
    return {
        **dict.fromkeys(zeros, 0),
        "uid": neuron.uid,
        "coldkey": f"cold {neuron.uid}",
        "hotkey": neuron.hotkey,
        "active": True,
        "axon_info": {"ip": address, "port": neuron.port, "protocol": 4},
        "stake": total / 2,  # without what is staked to the root: never the value to use
        "last_update": 1,
        "validator_permit": neuron.permit,
        "stakes": {"alpha": total / 2, "tao": total / 2, "total": total},
    }


def _admit(token: str, open_access: str, whose: str = "") -> bool:
    """Return whether an identity asks. Raises Answer as the service's guards do."""
    is_identity = whose.startswith("/identity/")
    if not token:
        raise Answer(401, "Authorization header is required")
    if token != (IDENTITY_TOKEN if is_identity else open_access):
        raise Answer(403, "Invalid authorization token")
    return is_identity


def _fetched(url: str) -> Any:
    try:
        with urllib.request.urlopen(url) as response:  # noqa: S310 (the service of this test)
            return json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            raise Answer(error.code, json.load(error)["detail"]) from error


@contextmanager
def serving(chain: Chain, *, behind: str = "") -> Iterator[Service]:
    """Serve a chain on a free port of loopback as long as the context."""
    service = Service(chain, behind=behind)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            status = 200
            try:
                body = json.dumps(service.answer(self.path, token)).encode()
                body = body if service.body is None else service.body
            except Answer as answer:
                status = answer.status
                body = json.dumps({"status_code": status, "detail": answer.detail}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if status == 429:
                self.send_header("Retry-After", "90")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        service.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()
