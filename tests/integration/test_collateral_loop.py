"""The collateral that the chain follower records, and what it says about what it does not know."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest
from time_machine import TimeMachineFixture

from allowance.chain import record_block, record_collaterals
from allowance.follow.collateral import EVERY, AllUnknown, CollateralLoop, Reading, divided
from allowance.follow.reports import report_failure, report_good
from allowance.follow.sources import ChainBlock, Neuron, SourceBusy
from allowance.models import Miner
from tests.clock import MINUTE, NOW, noon

pytestmark = [pytest.mark.django_db(transaction=True), noon]

FIRST, POLL = 5000, 3.0
ALICE, BOB = "0x" + "a" * 40, "0x" + "b" * 40
CONTRACT = "0x" + "c" * 40


class Subnet:
    """A scripted chain, and the contract on it: hotkeys and associated addresses by uid, and deposits by address."""

    name, contract = "scripted", CONTRACT

    def __init__(self) -> None:
        self.head = FIRST
        self.hotkeys = {0: "anna", 1: "bert", 2: "carl"}
        self.associated = {0: ALICE, 1: BOB}
        self.deposits = {ALICE: 7, BOB: 9}
        self.error: Exception | None = None
        self.asked: list[tuple[int, list[str]]] = []
        self.renewed = 0

    async def block(self) -> ChainBlock | None:
        neurons = (Neuron(uid, name, "0.0.0.0", 4, 0, False, 0) for uid, name in self.hotkeys.items())  # noqa: S104
        return ChainBlock(self.head, "", "", NOW, tuple(neurons)) if self.head else None

    async def evm_addresses(self, number: int) -> Mapping[int, str]:
        return self.associated

    async def collateral(self, block: int, addresses: Sequence[str]) -> Mapping[str, int]:
        self.asked.append((block, list(addresses)))
        if self.error:
            raise self.error
        return {a: self.deposits[a] for a in addresses if a in self.deposits}

    async def renew(self) -> None:
        self.renewed += 1

    async def close(self) -> None:
        """Nothing is open."""

    def loop(self) -> CollateralLoop:
        return CollateralLoop(self, self.block, self.evm_addresses, write, poll=POLL)


def write(reading: Reading) -> None:
    record_collaterals(reading.wei)


@pytest.fixture
def subnet() -> Subnet:
    found = Subnet()
    record_block(number=FIRST, timestamp=NOW, stake_share=0.5, hotkeys=[*found.hotkeys.values()])
    return found


def recorded() -> dict[str, int]:
    return dict(Miner.objects.values_list("hotkey", "wei"))


def step(loop: CollateralLoop) -> float:
    return asyncio.run(loop.step())


def read_again(loop: CollateralLoop, subnet: Subnet) -> None:
    """Read at the next block at which it is due."""
    subnet.head += EVERY
    step(loop)


def test_it_reads_at_the_newest_recorded_block_uid_0_too(subnet: Subnet) -> None:
    loop = subnet.loop()
    assert step(loop) == POLL
    assert subnet.asked == [(FIRST, [ALICE, BOB])]
    assert recorded() == {"anna": 7, "bert": 9, "carl": 0}
    assert loop.detail == {"block": FIRST, "contract": CONTRACT, "associated": 2, "unknown": {}, "shared": {}}
    assert loop.calls.counted.keys() == {"evm_addresses", "collateral"}


def test_it_reads_again_after_50_blocks_or_if_blocks_were_forgotten(subnet: Subnet) -> None:
    loop = subnet.loop()
    for subnet.head in (FIRST, FIRST, FIRST + 49, FIRST + 51, FIRST + 100, FIRST + 101, FIRST + 50):
        assert step(loop) == POLL
    assert [block for block, _ in subnet.asked] == [FIRST, FIRST + 51, FIRST + 101, FIRST + 50]


def test_before_the_first_block_nothing_is_read(subnet: Subnet) -> None:
    subnet.head = 0
    loop = subnet.loop()
    assert step(loop) == POLL
    assert loop.calls.good == 0


def test_no_association_is_0_and_one_that_is_gone_is_0(subnet: Subnet) -> None:
    record_collaterals({"carl": 5})
    loop = subnet.loop()
    step(loop)
    assert recorded() == {"anna": 7, "bert": 9, "carl": 0}
    del subnet.associated[0]
    read_again(loop, subnet)
    assert recorded() == {"anna": 0, "bert": 9, "carl": 0}
    assert loop.detail["associated"] == 1


def test_unknown_is_not_0_and_says_since_when(subnet: Subnet, time_machine: TimeMachineFixture) -> None:
    loop = subnet.loop()
    step(loop)
    del subnet.deposits[BOB]
    read_again(loop, subnet)
    time_machine.move_to(NOW + 10 * MINUTE, tick=False)
    subnet.deposits[ALICE] = 6
    read_again(loop, subnet)
    assert recorded() == {"anna": 6, "bert": 9, "carl": 0}
    assert loop.detail["unknown"] == {"bert": NOW.isoformat()}
    subnet.deposits[BOB] = 8
    read_again(loop, subnet)
    assert recorded()["bert"] == 8
    assert loop.detail["unknown"] == {}


def test_since_when_survives_a_restart_and_a_failure_after_it(subnet: Subnet, time_machine: TimeMachineFixture) -> None:
    del subnet.deposits[BOB]
    before = subnet.loop()
    step(before)
    report_good("collateral", "scripted", before.detail)
    time_machine.move_to(NOW + MINUTE, tick=False)
    after = subnet.loop()
    subnet.error = OSError("no route")
    with pytest.raises(OSError, match="no route"):
        step(after)
    report_failure("collateral", "scripted", "no route", after.detail)
    subnet.error = None
    last = subnet.loop()
    step(last)
    assert last.detail["unknown"] == {"bert": NOW.isoformat()}


def test_if_all_is_unknown_the_source_has_failed(subnet: Subnet) -> None:
    loop = subnet.loop()
    step(loop)
    record_collaterals({"carl": 5})
    subnet.deposits.clear()
    subnet.head += EVERY
    with pytest.raises(AllUnknown, match=r"none of the 2 addresses") as refused:
        step(loop)
    assert refused.value.wait == 60
    assert recorded() == {"anna": 7, "bert": 9, "carl": 5}
    assert loop.detail["unknown"].keys() == {"anna", "bert"}
    assert subnet.renewed == 1
    subnet.deposits |= {ALICE: 1, BOB: 2}
    step(loop)  # it does not wait for 50 more blocks
    assert recorded() == {"anna": 1, "bert": 2, "carl": 0}


def test_hotkeys_that_share_an_address_share_its_deposit(subnet: Subnet) -> None:
    subnet.associated = {0: ALICE, 1: ALICE, 2: ALICE, 9: ALICE}  # no neuron has uid 9
    subnet.deposits[ALICE] = 3 * 10**18 + 2
    loop = subnet.loop()
    step(loop)
    assert recorded() == dict.fromkeys(["anna", "bert", "carl"], 10**18)
    assert loop.detail["shared"] == {ALICE: ["anna", "bert", "carl"]}
    assert subnet.asked == [(FIRST, [ALICE])]


def test_a_hotkey_that_leaves_keeps_its_collateral_and_shares_no_more(subnet: Subnet) -> None:
    subnet.associated = {0: ALICE, 1: ALICE}
    subnet.deposits[ALICE] = 8
    loop = subnet.loop()
    step(loop)
    subnet.hotkeys[0] = "dora"
    del subnet.associated[0]  # the chain forgets the association with the neuron
    read_again(loop, subnet)
    assert recorded() == {"anna": 4, "bert": 8, "carl": 0, "dora": 0}
    assert loop.detail["shared"] == {}


def test_a_failure_renews_the_source_and_changes_nothing(subnet: Subnet) -> None:
    loop = subnet.loop()
    step(loop)
    subnet.error = SourceBusy("The EVM", 0, "too many requests")
    with pytest.raises(SourceBusy):
        read_again(loop, subnet)
    assert recorded() == {"anna": 7, "bert": 9, "carl": 0}
    assert (subnet.renewed, loop.detail["block"]) == (1, FIRST)


def test_without_any_association_the_source_is_asked_for_nothing_so_that_it_checks_itself(subnet: Subnet) -> None:
    subnet.associated.clear()
    loop = subnet.loop()
    step(loop)
    assert subnet.asked == [(FIRST, [])]
    assert recorded() == dict.fromkeys(["anna", "bert", "carl"], 0)


@pytest.mark.parametrize("deposit", [0, 1, 2, 3, 10**18 + 1, 2**256 - 1])
def test_the_parts_of_a_shared_deposit_are_equal_and_never_more_than_it(deposit: int) -> None:
    addresses = {"anna": ALICE, "bert": ALICE, "carl": ALICE, "dora": BOB}
    parts = divided(addresses, {ALICE: deposit})
    assert parts == dict.fromkeys(["anna", "bert", "carl"], deposit // 3)
