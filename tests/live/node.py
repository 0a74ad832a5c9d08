"""A node of a scripted chain: its JSON-RPC interface on loopback, with the faults that real nodes have.

`served` runs one in a thread, so that a test can change its chain and its faults while a follower reads from it.
`python -m tests.live.node PORT` runs one as a process, which mines a block every 12 s.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import json
import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Literal

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from allowance.follow.sources import Neuron
from tests.live.chain import BLOCK_TIME, FINALITY_LAG, GENESIS, NETUID, Chain, Discarded, State, hotkey, subnet
from tests.live.runtime import runtime

Refusal = Literal["", "429", "1008", "-32004"]
"""How a node refuses calls: at the handshake, by closing the connection, or in the answer to each call."""

PRUNED = 4003
"""The code of the error for a state that the node has discarded, or for an unknown block."""

SUBSCRIPTIONS = {
    "chain_subscribeNewHeads": "chain_newHead",
    "chain_subscribeNewHead": "chain_newHead",
    "chain_subscribeFinalizedHeads": "chain_finalizedHead",
}
"""The methods that subscribe to headers, and the method of their notifications. None is ever sent: clients poll."""


quiet = logging.getLogger(__name__)
quiet.addHandler(logging.NullHandler())
quiet.propagate = False  # the connections of a node are no news


class RpcError(Exception):
    """An error that the node answers."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        self.code, self.message, self.data = code, message, data
        super().__init__(message)


class Node:
    """A node of a chain. A test may set its faults at any time, from any thread but the node's.

    `silent` answers nothing. `refusing` answers with the policy of a public node, for `retry_after` seconds as it says.
    `unreadable` answers runtime calls with bytes that don't decode. An `archive` node discards no state. `calls` counts
    the calls by method.
    """

    def __init__(self, chain: Chain, *, archive: bool = False) -> None:
        self.chain, self.archive = chain, archive
        self.silent, self.unreadable = False, False
        self.refusing: Refusal = ""
        self.retry_after = 90
        self.calls: Counter[str] = Counter()
        self.port = 0
        self._server: Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connections: set[ServerConnection] = set()

    @property
    def url(self) -> str:
        """The address of the node."""
        return f"ws://127.0.0.1:{self.port}"

    async def start(self, port: int = 0) -> None:
        """Listen at a port of loopback, or at a free one."""
        self._loop = asyncio.get_running_loop()
        how: dict[str, Any] = {"max_size": 2**24, "compression": None, "logger": quiet}
        self._server = await serve(self._converse, "127.0.0.1", port, process_request=self._admit, **how)
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def stop(self) -> None:
        """Stop listening, and end all connections at once."""
        if self._server:
            self._server.close(close_connections=False)
            self._abort()
            await self._server.wait_closed()
            self._server = None

    def drop(self) -> None:
        """End all connections as if the machine had lost power: without a closing handshake."""
        self._soon(self._abort)

    def hang_up(self, code: int = 1001) -> None:
        """Close all connections as a server does that is restarted."""

        async def close() -> None:
            await asyncio.gather(*(connection.close(code) for connection in list(self._connections)))

        assert self._loop
        asyncio.run_coroutine_threadsafe(close(), self._loop)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let the node do nothing as long as the context, as a stopped machine: its connections stay, half dead."""
        thaw, is_frozen = threading.Event(), threading.Event()

        def freeze() -> None:
            is_frozen.set()
            thaw.wait()

        self._soon(freeze)
        is_frozen.wait()
        try:
            yield
        finally:
            thaw.set()

    def _soon(self, act: Callable[[], None]) -> None:
        assert self._loop
        self._loop.call_soon_threadsafe(act)

    def _abort(self) -> None:
        for connection in list(self._connections):
            connection.transport.abort()

    def _admit(self, connection: ServerConnection, _request: Request) -> Response | None:
        if self.refusing != "429":
            return None
        response = connection.respond(HTTPStatus.TOO_MANY_REQUESTS, "too many connections\n")
        response.headers["Retry-After"] = str(self.retry_after)
        return response

    async def _converse(self, connection: ServerConnection) -> None:
        self._connections.add(connection)
        try:
            async for text in connection:
                asked = json.loads(text)
                if self.refusing == "1008":
                    await connection.close(1008, "too many requests")
                    return
                answer = [self._answer(one) for one in asked] if isinstance(asked, list) else self._answer(asked)
                if not self.silent:
                    await connection.send(json.dumps(answer))
        except ConnectionClosed:
            return
        finally:
            self._connections.discard(connection)

    def _answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        method, given = asked["method"], asked.get("params") or []
        self.calls[method] += 1
        head = {"jsonrpc": "2.0", "id": asked["id"]}
        try:
            return {**head, "result": self._call(method, list(given.values()) if isinstance(given, dict) else given)}
        except RpcError as error:
            detail = {} if error.data is None else {"data": error.data}
            return {**head, "error": {"code": error.code, "message": error.message, **detail}}

    def _call(self, method: str, given: list[Any]) -> object:  # noqa: PLR0912 (one case for each method)
        if self.refusing == "-32004":
            data = {"policy": "storage-work", "retry_after": self.retry_after}
            raise RpcError(-32004, "storage work rate limit exceeded", data)
        first = given[0] if given else None
        match method:
            case "chain_getBlockHash":
                return self._hash(first)
            case "chain_getHead":
                return self._hash(None)
            case "chain_getFinalizedHead":
                return self.chain.finalized.hash
            case "chain_getHeader":
                return self._header(first)
            case "chain_getBlock":
                return {"block": {"header": self._header(first), "extrinsics": []}, "justifications": None}
            case "state_getRuntimeVersion" | "chain_getRuntimeVersion":
                return _version(self._state(first).spec)
            case "state_getMetadata":
                raise RpcError(-32601, "Method not found: this node has V15 metadata only")
            case "state_call":
                return self._runtime_call(first or "", given[1], self._state(_at(given, 2)))
            case "state_getStorage" | "state_getStorageAt":
                return self._state(_at(given, 1)).storage.get(str(first))
            case "state_getKeys":
                keys = self._state(_at(given, 1)).storage
                return [key for key in keys if key.startswith(str(first))]
            case "state_getKeysPaged":
                prefix, count, after = str(first), given[1], _at(given, 2) or ""
                keys = self._state(_at(given, 3)).storage
                return [key for key in keys if key.startswith(prefix) and key > after][:count]
            case "state_queryStorageAt":
                state = self._state(_at(given, 1))
                changes = [[key, state.storage.get(key)] for key in first or []]
                return [{"block": state.block.hash, "changes": changes}]
            case "system_chain":
                return "Scripted"
            case "system_properties":
                return {"ss58Format": 42, "tokenDecimals": 9, "tokenSymbol": "TAO"}
            case "system_health":
                return {"peers": 8, "isSyncing": False, "shouldHavePeers": True}
            case "rpc_methods":
                return {"methods": []}
            case _ if method in SUBSCRIPTIONS:
                return f"{method}-{self.calls[method]}"
            case _ if method.startswith("chain_unsubscribe"):
                return True
        raise RpcError(-32601, f"Method not found: {method}")

    def _hash(self, number: Any) -> str | None:
        if number is None:
            number = self.chain.head
        return self.chain.hash_of(int(number, 16) if isinstance(number, str) else number)

    def _header(self, block_hash: Any) -> dict[str, Any] | None:
        found = self.chain.header(str(block_hash or self._hash(None)))
        if not found:
            return None
        number, parent = found
        roots = {"stateRoot": GENESIS, "extrinsicsRoot": GENESIS}
        return {"number": hex(number), "parentHash": parent, "digest": {"logs": []}, **roots}

    def _state(self, block_hash: Any) -> State:
        discarded = f"Client error: Api called for an unknown Block: State already discarded for {block_hash}"
        try:
            state = self.chain.state_at(str(block_hash or self._hash(None)))
        except Discarded:
            raise RpcError(PRUNED, discarded) from None
        except LookupError:
            message = f"Client error: UnknownBlock: Header was not found in the database: {block_hash}"
            raise RpcError(PRUNED, message) from None
        if state.block.number < self.chain.pruned_below and not self.archive:
            raise RpcError(PRUNED, discarded)
        return state

    def _runtime_call(self, method: str, data: str, state: State) -> str:
        of = runtime(state.spec)
        if method == "Metadata_metadata_at_version":
            return "0x" + of.opaque.hex()
        if method == "Metadata_metadata_versions":
            return "0x080e0000000f000000"  # 14 and 15
        if self.unreadable:
            return "0x01ff"
        api, _, name = method.partition("_")
        arguments = of.arguments(api, name, bytes.fromhex(data.removeprefix("0x")))
        if arguments[0] != NETUID:
            return "0x00"  # no metagraph, and no neurons
        given: Any = _metagraph(state)
        match name:
            case "get_selective_metagraph":
                asked = {of.columns[index] for index in arguments[1]} | {"netuid"}
                given = {column: value for column, value in given.items() if column in asked}
                return of.result(api, name, given)
            case "get_metagraph" | "get_subnet_state":
                return of.result(api, name, given)
            case "get_neurons" | "get_neurons_lite":
                return of.result(api, name, [_neuron_info(neuron, state) for neuron in state.block.neurons])
        raise RpcError(-32000, f"the scripted chain has no runtime call {method}")


def _at(given: list[Any], index: int) -> Any:
    """Return an argument that may be left out."""
    return given[index] if len(given) > index else None


def _version(spec: int) -> dict[str, Any]:
    return {
        "specName": "node-subtensor",
        "implName": "node-subtensor",
        "authoringVersion": 1,
        "specVersion": spec,
        "implVersion": 1,
        "apis": [],
        "transactionVersion": 1,
        "stateVersion": 1,
    }


def _metagraph(state: State) -> dict[str, Any]:
    """Return the columns of the metagraph that are not zero, by uid."""
    neurons = state.block.neurons
    return {
        "netuid": NETUID,
        "block": state.block.number,
        "num_uids": len(neurons),
        "max_uids": max(256, len(neurons)),
        "hotkeys": [neuron.hotkey for neuron in neurons],
        "coldkeys": [hotkey(f"cold {neuron.uid}") for neuron in neurons],
        "axons": [_axon(neuron) for neuron in neurons],
        "active": [True for _ in neurons],
        "validator_permit": [neuron.permit for neuron in neurons],
        "total_stake": [neuron.stake for neuron in neurons],
        "alpha_stake": [neuron.stake for neuron in neurons],
        "tao_stake": [0 for _ in neurons],
    }


def _axon(neuron: Neuron) -> dict[str, int]:
    if not neuron.port:
        return {}
    ip = int(ipaddress.ip_address(neuron.address))
    return {"block": 1, "version": 1, "ip": ip, "port": neuron.port, "ip_type": neuron.ip_version, "protocol": 4}


def _neuron_info(neuron: Neuron, state: State) -> dict[str, Any]:
    return {
        "hotkey": neuron.hotkey,
        "coldkey": hotkey(f"cold {neuron.uid}"),
        "uid": neuron.uid,
        "netuid": NETUID,
        "active": True,
        "axon_info": _axon(neuron),
        "stake": [(hotkey(f"cold {neuron.uid}"), neuron.stake)],
        "last_update": state.block.number,
        "validator_permit": neuron.permit,
    }


@contextmanager
def served(chain: Chain, *, archive: bool = False, port: int = 0) -> Iterator[Node]:
    """Run a node in a thread as long as the context."""
    node = Node(chain, archive=archive)
    ready, stop = threading.Event(), asyncio.Event()

    async def run() -> None:
        await node.start(port)
        ready.set()
        await stop.wait()
        await node.stop()

    thread = threading.Thread(target=asyncio.run, args=(run(),), name="node", daemon=True)
    thread.start()
    while not ready.wait(0.05):
        assert thread.is_alive(), "the node could not listen"
    try:
        yield node
    finally:
        node._soon(stop.set)
        thread.join()


async def _main(port: int) -> None:
    began = dt.datetime.now(dt.UTC) - (1 + FINALITY_LAG) * BLOCK_TIME  # no block is ahead of the clock
    chain = Chain(subnet(), start=began)
    node = Node(chain)
    await node.start(port)
    print(node.url, flush=True)  # noqa: T201 (who starts it waits for this line)
    while True:
        await asyncio.sleep(BLOCK_TIME.total_seconds())
        chain.mine()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
