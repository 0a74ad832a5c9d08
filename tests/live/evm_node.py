"""A real EVM node on loopback, with a collateral contract. It mines only when a test says so.

The collateral of a block is read at the number of the chain's block, so `mine_to` brings the EVM to a given number.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from typing import IO, Any

from tests.live.anvil import anvil

BYTECODE = Path(__file__).with_name("collateral.hex").read_text().strip()
DEPOSIT, SLASH = "0xd0e30db0", "0x02fb4d85"
"""The selectors of the contract's functions `deposit()` and `slash(address,uint256)`."""

TRUSTEE = "0x" + "7e" * 20
GAS = hex(1_000_000)
PLENTY = hex(10**30)
"""A balance in Wei that pays for all deposits and fees."""


class EvmNode:
    """A running node at `url`. Transactions wait until a block is mined. Any address may send them without a key."""

    def __init__(self, port: int) -> None:
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        self._sent: list[str] = []
        self.rpc("anvil_autoImpersonateAccount", True)

    def rpc(self, method: str, *params: object) -> Any:
        """Return the result of a call. Raises RuntimeError if the node refuses it."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
            connection.request("POST", "/", body, {"Content-Type": "application/json"})
            answer = json.load(connection.getresponse())
        finally:
            connection.close()
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    @property
    def number(self) -> int:
        """The number of the newest block."""
        return int(self.rpc("eth_blockNumber"), 16)

    def mine(self, blocks: int = 1) -> int:
        """Mine blocks; the waiting transactions are in the first. Return the number of the newest block."""
        if blocks > 0:
            self.rpc("anvil_mine", hex(blocks))
            for sent in self._sent:
                receipt = self.rpc("eth_getTransactionReceipt", sent)
                assert receipt["status"] == "0x1", f"The transaction {sent} failed: {receipt}"
            self._sent.clear()
        return self.number

    def mine_to(self, number: int) -> None:
        """Mine blocks until the newest has this number. The waiting transactions are in the first new block."""
        assert self.mine(number - self.number) == number

    def deploy(self, netuid: int = 12) -> str:
        """Deploy the contract in a new block. Return its address."""
        self._send(TRUSTEE, data=BYTECODE + f"{netuid:064x}")
        (sent,) = self._sent
        self.mine()
        address: str = self.rpc("eth_getTransactionReceipt", sent)["contractAddress"]
        return address

    def deposit(self, contract: str, account: str, wei: int) -> None:
        """Deposit Wei from an account. It counts from the next mined block on."""
        self._send(account, to=contract, data=DEPOSIT, wei=wei)

    def slash(self, contract: str, account: str, wei: int) -> None:
        """Take Wei of an account's deposit away. It counts from the next mined block on."""
        self._send(TRUSTEE, to=contract, data=SLASH + account[2:].rjust(64, "0") + f"{wei:064x}")

    def _send(self, account: str, *, data: str, to: str | None = None, wei: int = 0) -> None:
        self.rpc("anvil_setBalance", account, PLENTY)
        receiver = {"to": to} if to else {}
        transaction = {"from": account, "data": data, "value": hex(wei), "gas": GAS, **receiver}
        self._sent.append(self.rpc("eth_sendTransaction", transaction))


@contextmanager
def evm_node(*, number: int = 0, chain_id: int = 964) -> Iterator[EvmNode]:
    """Run a node whose first block has this `number`, on a free port of loopback."""
    command = [str(anvil()), "--host", "127.0.0.1", "--port", "0", "--number", str(number), "--chain-id", str(chain_id)]
    command += ["--no-mining", "--order", "fifo", "--accounts", "1", "--gas-limit", str(10**10)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            port = _port_in(process.stdout)
            Thread(target=deque, args=(process.stdout, 0), daemon=True).start()  # else the pipe fills, and it stands
            yield EvmNode(port)
        finally:
            process.kill()


def _port_in(lines: IO[str]) -> int:
    for line in lines:
        if found := re.search(r"Listening on 127\.0\.0\.1:(\d+)", line):
            return int(found[1])
    raise RuntimeError("anvil ended before it listened.")
