"""A whole subnet on loopback: a node, an EVM, miners with receipts, and what the script says of each at every block."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bittensor_core
from bittensor_core import Keypair

from allowance.follow.sources import ChainBlock, Neuron
from receipts.transfer.pages import PAGE_SECONDS
from tests.live.chain import FIRST, NETUID, Chain, hotkey
from tests.live.evm_node import EvmNode, evm_node
from tests.live.fixtures import OLD
from tests.live.miners import ScriptedMiner, ScriptedMiners
from tests.live.node import Node, served

OURS = Keypair.create_from_uri("//Validator")
OTHER = Keypair.create_from_uri("//OtherValidator")
TAO = 10**9
"""In rao."""

BLOCK_TIME = dt.timedelta(seconds=0.25)


@dataclass
class Subnet:
    """A subnet whose chain grows in a thread. `mining` is held while the script changes the chain."""

    chain: Chain
    node: Node
    evm: EvmNode
    contract: str
    miners: ScriptedMiners
    mining: threading.RLock = field(default_factory=threading.RLock)
    over: threading.Event = field(default_factory=threading.Event)

    def mine(self) -> None:
        """Mine a block every `block_time` of the chain until the script is over. The stake moves every ten blocks."""
        while not self.over.wait(self.chain.block_time.total_seconds()):
            with self.mining:
                if self.chain.head % 10 == 0:
                    self.chain.neurons = neurons(self.miners, 1000 + self.chain.head % 100)
                self.evm.mine_to(self.chain.head + 1)
                self.chain.mine()

    def scripted(self) -> dict[int, ChainBlock]:
        """Return the finalized blocks by number."""
        with self.mining:
            last = self.chain.finalized.number
            return {number: self.chain.state(number).block for number in range(FIRST, last + 1)}

    def environment(self, folder: Path) -> dict[str, object]:
        """Return the settings of a follower of this subnet."""
        key = folder / "hotkey"
        key.write_bytes(bittensor_core.serialized_keypair_to_keyfile_data(OURS))
        return {
            "CHAIN_SOURCE": "subtensor",
            "SUBTENSOR_URL": self.node.url,
            "NETUID": NETUID,
            "VALIDATOR_HOTKEY": OURS.ss58_address,
            "VALIDATOR_HOTKEY_FILE": key,
            "EVM_URL": self.evm.url,
            "FOLLOW_POLL_SECONDS": 0.1,
            "FOLLOW_PRIVATE_ADDRESSES": 1,
        }


def neurons(miners: ScriptedMiners, stake: int) -> tuple[Neuron, ...]:
    """Return the miners, whose uids begin with 0, and after them three validators. `stake` is ours, in TAO."""
    validators = {OURS.ss58_address: stake, OTHER.ss58_address: 9_000, hotkey("third validator"): 5_000}
    count = len(miners)
    permitted = [
        Neuron(count + n, name, "0.0.0.0", 4, 0, permit=True, stake=amount * TAO)  # noqa: S104 (it does not listen)
        for n, (name, amount) in enumerate(validators.items())
    ]
    return (*miners.neurons(), *permitted)


def serve_receipts(miner: ScriptedMiner, *receipts: dict[str, Any], at: dt.datetime) -> None:
    """Append receipts to the page of a time."""
    page = int(at.timestamp()) // PAGE_SECONDS
    lines = b"".join(json.dumps(receipt).encode() + b"\n" for receipt in receipts)
    miner.pages[page] = miner.pages.get(page, b"") + lines


@contextmanager
def subnet(
    count: int = 64, *, spec: int = OLD, first: int = FIRST, blocks: int = 0, block_time: dt.timedelta = BLOCK_TIME
) -> Iterator[Subnet]:
    """Run a subnet with `count` miners. Its chain begins with block `first` and has so many `blocks` more already."""
    with ExitStack() as stack:
        miners = stack.enter_context(ScriptedMiners(OURS.ss58_address, count))
        evm = stack.enter_context(evm_node(number=first - 10))
        contract = evm.deploy(NETUID)
        chain = Chain(
            neurons(miners, 1000),
            commitments={OURS.ss58_address: json.dumps({"contract": {"address": contract}}).encode()},
            spec=spec,
            start=dt.datetime.now(dt.UTC) - (3 + blocks) * block_time,
            block_time=block_time,
            first=first,
        )
        chain.mine(blocks)
        evm.mine_to(chain.head)
        node = stack.enter_context(served(chain))
        made = Subnet(chain, node, evm, contract, miners)
        thread = threading.Thread(target=made.mine, name="mine", daemon=True)
        thread.start()
        try:
            yield made
        finally:
            made.over.set()
            thread.join()
            with suppress(RuntimeError):
                node.drop()
