"""The collateral from deposits in a real contract to the ledger."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from pytest_django.fixtures import Settings

from allowance.chain import record_collaterals
from allowance.follow.collateral import AllUnknown, CollateralLoop
from allowance.follow.evm import from_settings
from allowance.follow.sources import ChainBlock, Neuron
from allowance.models import Miner
from allowance.plumbing.threads import in_database_thread
from tests.clock import NOW
from tests.live.evm_node import EvmNode, evm_node

pytestmark = [pytest.mark.live, pytest.mark.django_db(transaction=True)]

NUMBER = 6_000_000
"""The number of the block at which the contract is deployed."""

ALICE, BOB, CARL = ("0x" + digit * 40 for digit in "abc")
TAO = 10**18


@pytest.fixture(scope="module")
def node() -> Iterator[EvmNode]:
    with evm_node(number=NUMBER - 1) as running:
        yield running


class Subnet:
    """A scripted subnet, whose blocks have the numbers of the EVM's. The validator's commitment names the contract."""

    def __init__(self, contract: str) -> None:
        self.number, self.contract = NUMBER, contract
        self.associated = {0: ALICE, 1: BOB, 2: BOB, 3: CARL}

    async def block(self) -> ChainBlock:
        names = enumerate(["anna", "bert", "carl", "dora", "emil"])
        neurons = tuple(Neuron(uid, name, "0.0.0.0", 4, 0, False, 0) for uid, name in names)  # noqa: S104
        return ChainBlock(self.number, "", "", NOW, neurons)

    async def evm_addresses(self, _number: int) -> Mapping[int, str]:
        return self.associated

    async def commitments(self, _number: int) -> Mapping[str, bytes]:
        return {"validator": json.dumps({"contract": {"address": self.contract}}).encode()}


def amounts() -> list[int]:
    return [*Miner.objects.order_by("hotkey").values_list("wei", flat=True)]


async def test_the_ledger_has_what_the_contract_has(node: EvmNode, settings: Settings) -> None:
    settings.EVM_URL, settings.VALIDATOR_HOTKEY = node.url, "validator"
    contract = node.deploy(12)
    assert node.number == NUMBER
    chain: Any = Subnet(contract.upper().replace("X", "x"))
    loop = CollateralLoop(
        from_settings(chain),
        chain.block,
        chain.evm_addresses,
        lambda reading: record_collaterals(reading.wei),
        poll=3.0,
    )

    async def recorded_at(number: int) -> list[int]:
        """Return what is recorded after a step at this block of the chain."""
        chain.number = number
        await loop.step()
        return await in_database_thread(amounts)()

    node.deposit(contract, ALICE, TAO)
    node.deposit(contract, BOB, 3 * TAO + 1)
    node.deposit(contract, CARL, 5)
    node.mine_to(NUMBER + 100)
    assert await recorded_at(NUMBER) == [0, 0, 0, 0, 0]
    assert await recorded_at(NUMBER + 100) == [TAO, 3 * TAO // 2, 3 * TAO // 2, 5, 0]
    assert loop.detail["shared"] == {BOB: ["bert", "carl"]}
    assert loop.detail["contract"] == contract

    node.slash(contract, ALICE, 1)
    node.mine_to(NUMBER + 200)
    del chain.associated[2], chain.associated[3]
    assert await recorded_at(NUMBER + 200) == [TAO - 1, 3 * TAO + 1, 0, 0, 0]
    with pytest.raises(AllUnknown):
        await recorded_at(NUMBER + 201 + 100)  # the EVM lacks this block
    node.mine_to(NUMBER + 301)
    assert loop.detail["unknown"].keys() == {"anna", "bert"}
    assert await recorded_at(NUMBER + 301) == [TAO - 1, 3 * TAO + 1, 0, 0, 0]
    assert loop.detail["unknown"] == {}
    await loop.close()
