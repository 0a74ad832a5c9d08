"""The collateral as a real EVM node answers it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import pytest

from allowance.follow.evm import Evm, NoContract, NoEvmAnswer, OtherContract, OtherEvmChain
from tests.live.evm_node import EvmNode, evm_node

pytestmark = pytest.mark.live

NUMBER = 5_000_000
"""The number of the node's first block."""

NETUID, CHAIN_ID = 12, 964
ALICE, BOB = "0x" + "a1" * 20, "0x" + "b0" * 20


@pytest.fixture(scope="module")
def running() -> Iterator[EvmNode]:
    with evm_node(number=NUMBER, chain_id=CHAIN_ID) as node:
        yield node


@pytest.fixture
def node(running: EvmNode) -> Iterator[EvmNode]:
    """The node, which forgets afterwards what a test has mined."""
    snapshot = running.rpc("evm_snapshot")
    yield running
    running.rpc("evm_revert", snapshot)


@pytest.fixture
def contract(node: EvmNode) -> str:
    return node.deploy(NETUID)


def named(contract: str) -> Callable[[int], Awaitable[str]]:
    async def contract_at(_block: int) -> str:
        return contract

    return contract_at


def evm(node: EvmNode, contract: str, *, chain_id: int = CHAIN_ID, netuid: int = NETUID) -> Evm:
    return Evm([node.url], named(contract), chain_id=chain_id, netuid=netuid)


async def test_each_block_has_its_own_amounts(node: EvmNode, contract: str) -> None:
    node.deposit(contract, ALICE, 10**16 + 1)
    first = node.mine()
    node.deposit(contract, ALICE, 5)
    node.deposit(contract, BOB, 2)
    second = node.mine(40)
    node.slash(contract, ALICE, 10**16)
    third = node.mine()
    source = evm(node, contract)
    assert await source.collateral(first - 1, [ALICE, BOB]) == {ALICE: 0, BOB: 0}
    assert await source.collateral(first, [ALICE, BOB]) == {ALICE: 10**16 + 1, BOB: 0}
    assert await source.collateral(second, [ALICE, BOB]) == {ALICE: 10**16 + 6, BOB: 2}
    assert await source.collateral(third, [ALICE, BOB]) == {ALICE: 6, BOB: 2}
    assert source.contract == contract
    await source.close()


async def test_256_addresses_are_read_in_chunks(node: EvmNode, contract: str) -> None:
    deposits = {f"0x{uid + 1:040x}": 10**18 + uid for uid in range(256)}
    for account, wei in deposits.items():
        node.deposit(contract, account, wei)
    block = node.mine()
    source = evm(node, contract)
    assert await source.collateral(block, [*deposits]) == deposits
    await source.close()


async def test_a_block_that_the_node_lacks_is_unknown(node: EvmNode, contract: str) -> None:
    source = evm(node, contract)
    assert await source.collateral(node.number + 1, [ALICE]) == {}
    await source.close()


async def test_a_block_before_the_contract_is_unknown(node: EvmNode) -> None:
    """Such a call succeeds, with the empty result of an address without code."""
    before = node.number
    source = evm(node, node.deploy(NETUID))
    assert await source.collateral(before, [ALICE]) == {}
    await source.close()


async def test_after_a_reorganisation_the_new_block_counts(node: EvmNode, contract: str) -> None:
    before = node.rpc("evm_snapshot")
    source = evm(node, contract)
    node.deposit(contract, ALICE, 5)
    block = node.mine()
    assert await source.collateral(block, [ALICE]) == {ALICE: 5}
    node.rpc("evm_revert", before)
    node.deposit(contract, ALICE, 3)
    assert node.mine() == block
    assert await source.collateral(block, [ALICE]) == {ALICE: 3}
    await source.close()


async def test_an_address_without_code_is_no_contract(node: EvmNode) -> None:
    source = evm(node, ALICE)
    with pytest.raises(NoContract, match="no contract at the address"):
        await source.collateral(node.number, [BOB])
    await source.close()


@pytest.mark.parametrize(("address", "problem"), [("", "Neither"), ("0x12", "0x12"), ("5CJd…", "5CJd")])
async def test_what_is_no_address_is_no_contract(node: EvmNode, address: str, problem: str) -> None:
    with pytest.raises(NoContract, match=problem):
        await evm(node, address).collateral(node.number, [BOB])


async def test_the_contract_of_another_subnet_is_refused(node: EvmNode, contract: str) -> None:
    source = evm(node, contract, netuid=13)
    with pytest.raises(OtherContract, match=r"has the NETUID 12, .* subnet 13") as refused:
        await source.collateral(node.number, [ALICE])
    assert refused.value.found == NETUID
    assert source.contract == ""
    await source.close()


async def test_a_contract_of_another_kind_is_refused(node: EvmNode) -> None:
    node.rpc("anvil_setCode", BOB, "0x00")  # it answers each call with nothing
    source = evm(node, BOB)
    with pytest.raises(OtherContract, match="no NETUID"):
        await source.collateral(node.number, [ALICE])
    await source.close()


async def test_another_chain_is_refused(node: EvmNode, contract: str) -> None:
    source = evm(node, contract, chain_id=945)
    with pytest.raises(OtherEvmChain, match=r"chain id 964, but EVM_CHAIN_ID is 945"):
        await source.collateral(node.number, [ALICE])
    await source.close()


async def test_a_contract_that_is_named_anew_is_checked_anew(node: EvmNode, contract: str) -> None:
    names = [contract, contract, node.deploy(13)]

    async def contract_at(_block: int) -> str:
        return names.pop(0)

    source = Evm([node.url], contract_at, chain_id=CHAIN_ID, netuid=NETUID)
    assert await source.collateral(node.number, [ALICE]) == {ALICE: 0}
    assert await source.collateral(node.number, [ALICE]) == {ALICE: 0}
    with pytest.raises(OtherContract):
        await source.collateral(node.number, [ALICE])
    await source.close()


async def test_a_renewed_source_asks_the_next_node_and_checks_it(node: EvmNode, contract: str) -> None:
    source = Evm(["http://127.0.0.1:1", node.url], named(contract), chain_id=CHAIN_ID, netuid=NETUID)
    with pytest.raises(NoEvmAnswer, match=r"http://127\.0\.0\.1:1 "):
        await source.collateral(node.number, [ALICE])
    await source.renew()
    assert await source.collateral(node.number, [ALICE]) == {ALICE: 0}
    await source.renew()
    assert source.contract == ""
    with pytest.raises(NoEvmAnswer):
        await source.collateral(node.number, [ALICE])
    await source.close()
