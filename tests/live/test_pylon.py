"""The adapter for Pylon, with the real client, before a server on loopback that answers as Pylon documents."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from allowance.chain import record_block
from allowance.follow.blocks import Blocks, check_history, stake_share
from allowance.follow.pylon import DEPTH, Pylon, PylonIdentityUnfit, PylonRefused, PylonSilent
from allowance.follow.sources import BlockUnreadable, ChainBlock, Head, OtherHistory, SourceBusy, StateDiscarded
from tests.live.chain import NETUID, Chain, changed, subnet
from tests.live.pylon import IDENTITY, IDENTITY_TOKEN, OPEN_ACCESS_TOKEN, Service, serving

EVM = "0x" + "Ab" * 20


@pytest.fixture
def chain() -> Chain:
    chain = Chain(subnet(12, validators=3), evm={0: EVM, 5: "0x" + "5" * 40})
    chain.mine(20)
    return chain


@pytest.fixture
def service(chain: Chain) -> Iterator[Service]:
    with serving(chain) as service:
        yield service


@asynccontextmanager
async def pylon(service: Service, *, identity: str = "", token: str = OPEN_ACCESS_TOKEN) -> AsyncIterator[Pylon]:
    source = Pylon(service.url, identity, IDENTITY_TOKEN if identity else "", token, netuid=NETUID)
    try:
        yield source
    finally:
        await source.close()


def written(block: ChainBlock) -> None:
    """Record a block as the follower does."""
    check_history(block)
    record_block(
        number=block.number,
        timestamp=block.timestamp,
        stake_share=stake_share(block.neurons, block.neurons[0].hotkey),
        hotkeys=[neuron.hotkey for neuron in block.neurons],
        hashes=(block.hash, block.parent),
    )


@pytest.mark.parametrize("identity", ["", IDENTITY])
async def test_blocks_are_those_of_the_chain(chain: Chain, service: Service, identity: str) -> None:
    async with pylon(service, identity=identity) as source:
        head = await source.latest()
        assert head == Head(chain.head - DEPTH, chain.state(chain.head - DEPTH).block.hash)
        assert await source.block(head.number) == chain.state(head.number).block
        for _ in range(3):
            chain.mine()
            head = await source.latest()
            assert await source.block(head.number) == chain.state(head.number).block


async def test_blocks_are_read_backwards_with_one_reading_each(chain: Chain, service: Service) -> None:
    async with pylon(service) as source:
        head = await source.latest()
        assert await source.latest() == head
        for number in range(head.number, chain.first, -1):
            assert await source.block(number) == chain.state(number).block
    assert {path: count for path, count in service.asked.items() if "neurons" in path and count != 1} == {}


async def test_the_parent_of_the_first_readable_block_is_unknown(chain: Chain, service: Service) -> None:
    async with pylon(service) as source:
        assert await source.block(chain.first) == replace(chain.state(chain.first).block, parent="")
        service.faults[f"{chain.first + 1}/neurons"] = 503, "stale"
        with pytest.raises(PylonRefused, match="503 stale"):
            await source.block(chain.first + 2)


async def test_an_identity_is_told_the_addresses_behind_a_shield(chain: Chain, service: Service) -> None:
    hotkey = chain.neurons[7].hotkey
    service.shielded[hotkey] = "2001:db8::7"
    async with pylon(service, identity=IDENTITY) as source:
        told = (await source.block(chain.head)).neurons
    assert told == changed(chain.neurons, 7, address="2001:db8::7", ip_version=6)
    async with pylon(service) as source:
        assert (await source.block(chain.head)).neurons == chain.neurons


@pytest.mark.parametrize("stake", [0, 1, 123_456_789_012_345, 2**51 - 1])
async def test_stakes_are_exact(chain: Chain, service: Service, stake: int) -> None:
    chain.neurons = changed(chain.neurons, 0, stake=stake)
    chain.mine()
    async with pylon(service) as source:
        assert (await source.block(chain.head)).neurons[0].stake == stake


@pytest.mark.django_db(transaction=True)
async def test_a_fork_below_the_depth_stops_the_follower(chain: Chain, service: Service) -> None:
    chain.finalizing = False
    chain.mine(10)
    async with pylon(service) as source:
        loop = Blocks(source, written)
        await loop.step()
        recorded = chain.state(chain.head - DEPTH).block
        assert loop.newest == recorded
        chain.fork(2)
        chain.mine(1)
        await loop.step()  # a fork above the depth is nothing to stop for
        recorded = chain.state(chain.head - DEPTH).block
        chain.fork(8)
        chain.mine(1)
        for _ in range(2):
            loop.retry_at.clear()
            with pytest.raises(OtherHistory) as caught:
                await loop.step()
            assert (caught.value.number, caught.value.recorded) == (recorded.number, recorded.hash)
            assert caught.value.found == chain.state(recorded.number).block.hash
    assert loop.newest == recorded


async def test_commitments_are_the_newest(chain: Chain, service: Service) -> None:
    hotkey = chain.neurons[4].hotkey
    chain.commitments[hotkey] = b"<M:A3;S2>\x00\xff"
    async with pylon(service, identity=IDENTITY) as source:
        assert await source.commitments(chain.head) == {hotkey: b"<M:A3;S2>\x00\xff"}


@pytest.mark.parametrize("identity", ["", IDENTITY])
async def test_evm_addresses_are_those_of_registered_neurons(chain: Chain, service: Service, identity: str) -> None:
    chain.evm[40] = "0x" + "4" * 40
    async with pylon(service, identity=identity) as source:
        assert await source.evm_addresses(chain.head) == {0: EVM.lower(), 5: "0x" + "5" * 40}


async def test_an_old_service_is_to_be_updated(chain: Chain, service: Service) -> None:
    service.is_old = True
    async with pylon(service) as source:
        with pytest.raises(PylonRefused, match=r"update the service: it needs version 1\.2") as caught:
            await source.latest()
        assert (caught.value.status, caught.value.detail) == (404, "Not Found")
        with pytest.raises(PylonRefused, match=r"update the service"):
            await source.block(chain.head)
        with pytest.raises(PylonRefused, match="COLLATERAL_FROM=none"):
            await source.evm_addresses(chain.head)
    async with pylon(service, identity=IDENTITY) as source:
        with pytest.raises(PylonRefused, match="update the service"):
            await source.latest()


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "Set PYLON_OPEN_ACCESS_TOKEN"),
        (403, "Correct PYLON_OPEN_ACCESS_TOKEN"),
        (502, "Check the node"),
        (503, "no fresh data"),
        (418, "See the log of the service"),
    ],
)
async def test_a_refusal_says_what_to_do(chain: Chain, service: Service, status: int, advice: str) -> None:
    service.faults["/"] = status, "Words of the service."
    async with pylon(service) as source:
        for call in (source.latest, lambda: source.block(chain.head), lambda: source.commitments(chain.head)):
            with pytest.raises(PylonRefused, match=advice) as caught:
                await call()
            assert (caught.value.status, caught.value.detail) == (status, "Words of the service.")


async def test_a_slow_service_is_silent(service: Service) -> None:
    service.faults["/"] = 504, ""
    async with pylon(service) as source:
        with pytest.raises(PylonSilent, match="gateway_timeout"):
            await source.latest()


async def test_a_limit_of_calls_is_waited_out(service: Service) -> None:
    service.faults["/"] = 429, "Too many requests"
    async with pylon(service) as source:
        with pytest.raises(SourceBusy) as caught:
            await source.latest()
    assert caught.value.wait == 90


@pytest.mark.parametrize("part", ["neurons", "extrinsic"])
async def test_a_block_that_the_service_can_not_decode_stays_a_gap(chain: Chain, service: Service, part: str) -> None:
    service.faults[part] = 500, "Internal Server Error"
    async with pylon(service) as source:
        with pytest.raises(BlockUnreadable, match="See the log of the Pylon service") as caught:
            await source.block(chain.head)
    assert (caught.value.number, caught.value.runtime) == (chain.head, None)


async def test_a_block_after_the_newest_stays_a_gap(chain: Chain, service: Service) -> None:
    async with pylon(service) as source:
        with pytest.raises(BlockUnreadable, match=f"404 Block {chain.head + 1} not found"):
            await source.block(chain.head + 1)


async def test_a_block_that_no_node_of_the_service_has_is_discarded(chain: Chain, service: Service) -> None:
    service.faults["neurons"] = 500, "Block 1 data is unavailable on both main and archive nodes."
    async with pylon(service) as source:
        with pytest.raises(StateDiscarded, match="PYLON_BITTENSOR_ARCHIVE_NETWORK"):
            await source.block(chain.head)


async def test_a_block_without_a_time_stays_a_gap(chain: Chain, service: Service) -> None:
    service.time_call = "System", "remark"
    async with pylon(service) as source:
        with pytest.raises(BlockUnreadable, match="does not set the time"):
            await source.block(chain.head)


async def test_an_identity_needs_the_token_for_open_access_too(chain: Chain, service: Service) -> None:
    async with pylon(service, identity=IDENTITY, token="") as source:
        with pytest.raises(PylonRefused, match="Set PYLON_OPEN_ACCESS_TOKEN, also beside an identity"):
            await source.latest()


async def test_the_identity_must_be_of_the_subnet(chain: Chain, service: Service) -> None:
    service.identity_netuid = 7
    async with pylon(service, identity=IDENTITY) as source:
        with pytest.raises(PylonIdentityUnfit, match="is for subnet 7, but NETUID is 12"):
            await source.latest()
    async with pylon(service, identity="stranger") as source:
        with pytest.raises(PylonIdentityUnfit, match="is not known to it"):
            await source.latest()


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b"null", b'{"number": "x"}'])
async def test_what_is_no_answer_of_pylon_is_no_answer(service: Service, body: bytes) -> None:
    service.body = body
    async with pylon(service) as source:
        with pytest.raises(PylonSilent, match="can't be read"):
            await source.latest()


async def test_a_service_that_is_away_is_found_when_it_is_back(chain: Chain) -> None:
    with serving(chain) as service:
        source = Pylon(service.url, "", "", OPEN_ACCESS_TOKEN, netuid=NETUID)
    with pytest.raises(PylonSilent, match="Check PYLON_ADDRESS"):
        await source.latest()
    with serving(chain) as service:
        source.address = service.url
        await source.renew()
        assert (await source.latest()).number == chain.head - DEPTH
        await source.close()
        await source.close()


async def test_renewal_forgets_the_head(chain: Chain, service: Service) -> None:
    async with pylon(service) as source:
        await source.latest()
        service.chain = chain = Chain(chain.neurons)
        chain.mine(10)
        await source.renew()
        assert (await source.latest()).number == chain.head - DEPTH


async def test_the_service_has_no_genesis() -> None:
    assert await Pylon("http://127.0.0.1:8000", netuid=NETUID).genesis() == ""


async def test_the_client_reads_no_environment(chain: Chain, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"IDENTITY_NAME": "other", "IDENTITY_TOKEN": "other", "NEURONS_FILE": "/nowhere"}
    for name, value in settings.items():
        monkeypatch.setenv(f"PYLON_CLIENT_{name}", value)
    async with pylon(service) as source:
        assert (await source.latest()).number == chain.head - DEPTH
