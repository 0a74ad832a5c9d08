"""Read the collateral from the contract on the chain's EVM, by JSON-RPC over HTTP."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from json import loads
from typing import Any
from urllib.parse import urlsplit

from allowance.follow.conf import conf
from allowance.follow.sources import ChainSource, SourceBusy, SourceError

CHUNK = 100
"""The maximum number of calls in one request."""

TIMEOUT = 10.0
"""The maximum time (s) to connect, and to wait for each part of an answer."""

COLLATERALS, NETUID = "0xeeb97d3b", "0x06016f71"
"""The selectors of the contract's functions `collaterals(address)` and `NETUID()`."""

ADDRESS = re.compile("0x[0-9a-f]{40}")
UINT256 = re.compile("0x[0-9a-fA-F]{64}")
QUANTITY = re.compile("0x[0-9a-fA-F]{1,64}")

Call = tuple[str, list[Any]]
"""A method of the node, and its parameters."""


class NoEvmAnswer(SourceError):
    """The EVM interface of a node gave no usable answer."""

    wait = 30.0

    def __init__(self, node: str, reason: str) -> None:
        self.node, self.reason = node, reason
        super().__init__(
            f"The EVM interface at {node} gave no usable answer: {reason}. Check the node, and EVM_URL. "
            "The address must be that of the node's JSON-RPC over HTTP."
        )


class OtherEvmChain(SourceError):
    """The EVM belongs to another chain than the settings say."""

    wait = 60.0

    def __init__(self, node: str, found: int, configured: int) -> None:
        self.node, self.found, self.configured = node, found, configured
        super().__init__(
            f"The EVM at {node} has the chain id {found}, but EVM_CHAIN_ID is {configured}. Correct EVM_URL or "
            "EVM_CHAIN_ID. The main network has 964, the test network 945."
        )


class NoContract(SourceError):
    """The settings and the commitment name no collateral contract, or an address without a contract."""

    wait = 60.0

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"{problem} Set COLLATERAL_CONTRACT to the address of the contract, or publish it with the validator's "
            "hotkey. If the subnet has no collateral, set COLLATERAL_FROM to none."
        )


class OtherContract(SourceError):
    """The contract is not the collateral contract of our subnet. `found` is its NETUID; None if it has none."""

    wait = 60.0

    def __init__(self, contract: str, found: int | None, netuid: int) -> None:
        self.contract, self.found, self.netuid = contract, found, netuid
        has = "no NETUID" if found is None else f"the NETUID {found}"
        super().__init__(
            f"The contract {contract} has {has}, but the follower follows subnet {netuid}. Correct NETUID, or name the "
            "collateral contract of this subnet with COLLATERAL_CONTRACT."
        )


class Evm:
    """The collateral contract on the EVM of a node. `contract_at` returns its address at a block, or an empty text.

    `urls` are the HTTP addresses of nodes. The first is used until `renew` moves on to the next. Before the first
    answer of a node or a contract is used, the ids of the EVM and of the contract's subnet are compared with `chain_id`
    and `netuid`.
    """

    name = "evm"

    def __init__(
        self, urls: Sequence[str], contract_at: Callable[[int], Awaitable[str]], *, chain_id: int, netuid: int
    ) -> None:
        self.contract = ""
        self._urls, self._contract_at, self._chain_id, self._netuid = list(urls), contract_at, chain_id, netuid
        self._client: Any = None

    async def collateral(self, block: int, addresses: Sequence[str]) -> dict[str, int]:
        """Return the Wei of each address at a block. An address whose collateral is unknown is left out.

        Raises OtherEvmChain, NoContract or OtherContract if the answers would be those of another contract, and
        NoEvmAnswer or SourceBusy if there are none.
        """
        contract = await self._contract_at(block)
        if not contract or contract != self.contract:
            await self._check(contract)
        found: dict[str, int] = {}
        for start in range(0, len(addresses), CHUNK):
            chunk = addresses[start : start + CHUNK]
            answers = await self._ask([_call(contract, COLLATERALS + _argument(a), hex(block)) for a in chunk])
            found |= {a: int(wei, 16) for a, wei in zip(chunk, answers, strict=True) if UINT256.fullmatch(wei)}
        return found

    async def renew(self) -> None:
        """Drop the connection. The next call makes a new one, to the next node if there are several, and checks it."""
        await self.close()
        self._urls.append(self._urls.pop(0))

    async def close(self) -> None:
        """Close the connection."""
        client, self._client, self.contract = self._client, None, ""
        if client is not None:
            await client.aclose()

    @property
    def node(self) -> str:
        """The scheme, host and port of the node. The rest of an address may hold a secret."""
        parts = urlsplit(self._urls[0])
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    async def _check(self, contract: str) -> None:
        """Check that the node and the contract are those of the settings."""
        if not ADDRESS.fullmatch(contract):
            raise NoContract(
                f"{contract!r:.80} is not the address of a contract."
                if contract
                else "Neither the settings nor the commitment of the validator's hotkey name the collateral contract."
            )
        calls = [("eth_chainId", []), ("eth_getCode", [contract, "latest"]), _call(contract, NETUID, "latest")]
        chain_id, code, netuid = await self._ask(calls)
        if not QUANTITY.fullmatch(chain_id):
            raise NoEvmAnswer(self.node, "it does not answer eth_chainId")
        if int(chain_id, 16) != self._chain_id:
            raise OtherEvmChain(self.node, int(chain_id, 16), self._chain_id)
        if not code:
            raise NoEvmAnswer(self.node, "it does not answer eth_getCode")
        if code == "0x":
            raise NoContract(f"There is no contract at the address {contract}.")
        found = int(netuid, 16) if UINT256.fullmatch(netuid) else None
        if found != self._netuid:
            raise OtherContract(contract, found, self._netuid)
        self.contract = contract

    async def _ask(self, calls: Sequence[Call]) -> list[str]:
        """Make calls in one request. Return the result of each, or an empty text if it failed or is not a text."""
        import httpx  # noqa: PLC0415 (an extra)

        if self._client is None:
            self._client = httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=TIMEOUT)
        body = [{"jsonrpc": "2.0", "id": n, "method": m, "params": params} for n, (m, params) in enumerate(calls)]
        try:
            response = await self._client.post(self._urls[0], json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NoEvmAnswer(self.node, str(error) or type(error).__name__) from error
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
            wait = response.headers.get("retry-after", "")
            raise SourceBusy(
                f"The EVM interface at {self.node}", float(wait) if wait.isdecimal() else 0, "too many requests (429)"
            )
        if response.status_code != httpx.codes.OK:
            raise NoEvmAnswer(self.node, f"it answered with the HTTP status {response.status_code}")
        try:
            answers = response.json()
        except ValueError as error:
            raise NoEvmAnswer(self.node, "the answer is not JSON") from error
        if not isinstance(answers, list):
            raise NoEvmAnswer(self.node, f"it refused the calls: {answers!r:.200}")
        return _results(answers, len(calls))


def _call(contract: str, data: str, block: str) -> Call:
    return "eth_call", [{"to": contract, "data": data}, block]


def _argument(address: str) -> str:
    return address.removeprefix("0x").rjust(64, "0")


def _results(answers: list[Any], count: int) -> list[str]:
    """Return the results of the calls 0 to `count` - 1. A call with no answer, or with several, has an empty text."""
    results: dict[object, list[object]] = {}
    for answer in answers:
        if isinstance(answer, dict) and type(answer.get("id")) is int:
            results.setdefault(answer["id"], []).append(answer.get("result"))
    texts = []
    for number in range(count):
        match results.get(number):
            case [str() as text]:
                texts.append(text)
            case _:
                texts.append("")
    return texts


def contract_in(commitment: bytes) -> str:
    """Return the address of the collateral contract that a commitment names, in lower case, or an empty text.

    A commitment names it as JSON: {"contract": {"address": "0x..."}}.
    """
    try:
        published = loads(commitment)
    except ValueError:
        return ""
    match published:
        case {"contract": {"address": str() as address}} if ADDRESS.fullmatch(address.lower()):
            return address.lower()
    return ""


def from_settings(chain: ChainSource) -> Evm:
    """Return the source that the settings describe. `chain` is asked for the commitment that names the contract."""
    urls = [conf.EVM_URL] if conf.EVM_URL else [http_address(url) for url in conf.SUBTENSOR_URL]

    async def contract_at(block: int) -> str:
        named: str = conf.COLLATERAL_CONTRACT
        if named:
            return named.lower()
        commitments = await chain.commitments(block)
        return contract_in(commitments.get(conf.VALIDATOR_HOTKEY, b""))

    return Evm(urls, contract_at, chain_id=conf.EVM_CHAIN_ID, netuid=conf.NETUID)


def http_address(url: str) -> str:
    """Return the HTTP address of a node by its WebSocket address. A node serves both on one port."""
    return re.sub("^ws", "http", url, flags=re.IGNORECASE)
