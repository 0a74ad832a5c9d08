"""The adapter for Pylon before the real service 1.4.0, which reads a node with the chain's real metadata.

That service is older than the calls about blocks. So the server of test_pylon stands before it and answers those two;
all else is the service's own.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest

from allowance.follow.pylon import DEPTH, Pylon, PylonRefused
from allowance.follow.sources import BlockUnreadable, Head
from tests.live.chain import NETUID, Chain, changed, subnet
from tests.live.fixtures import NEW, SPECS
from tests.live.node import Node, served
from tests.live.pylon import OPEN_ACCESS_TOKEN, Service, serving
from tests.live.pylon_service import pylon_service


class Stage(NamedTuple):
    """A scripted chain, its node, the address of the real service, and the address of the server before it."""

    chain: Chain
    node: Node
    real: str
    front: str


firsts = itertools.count(10_000, 1_000)
"""The first block of each chain. No two chains share a block, because the service remembers neurons by its hash."""


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest) -> Iterator[tuple[Node, Service, str]]:
    """Run a node of a runtime, the service on it, and the server before that."""
    chain = Chain((), spec=getattr(request, "param", NEW))
    with served(chain) as node, pylon_service(node.url) as real, serving(chain, behind=real) as front:
        yield node, front, real


@pytest.fixture
def stage(running: tuple[Node, Service, str]) -> Stage:
    """A chain of its own for each test, on servers that run on."""
    node, front, real = running
    chain = Chain(subnet(64), spec=node.chain.spec, first=next(firsts))
    chain.mine(20)
    node.chain = front.chain = chain
    return Stage(chain, node, real, front.url)


@asynccontextmanager
async def pylon(address: str) -> AsyncIterator[Pylon]:
    source = Pylon(address, "", "", OPEN_ACCESS_TOKEN, netuid=NETUID)
    try:
        yield source
    finally:
        await source.close()


@pytest.mark.parametrize("running", SPECS, indirect=True, scope="module")
async def test_blocks_are_those_of_the_chain(stage: Stage) -> None:
    chain = stage.chain
    async with pylon(stage.front) as source:
        head = await source.latest()
        first = chain.state(chain.head - DEPTH).block
        assert head == Head(first.number, first.hash)
        assert await source.block(head.number) == first
        chain.neurons = changed(
            chain.neurons, 3, permit=True, stake=2**51 - 1, address="2001:db8::3", ip_version=6, port=9
        )
        chain.mine(1 + DEPTH)
        for number in range(first.number + 1, chain.head - DEPTH + 1):
            assert await source.block(number) == chain.state(number).block


async def test_a_fork_below_the_depth_shows_in_the_next_parent(stage: Stage) -> None:
    chain = stage.chain
    chain.finalizing = False
    chain.mine(10)
    async with pylon(stage.front) as source:
        head = await source.latest()
        before = await source.block(head.number)
        chain.fork(8)
        chain.mine()
        after = await source.block(head.number + 1)
    assert after.parent == chain.state(head.number).block.hash != before.hash


async def test_blocks_that_it_can_not_read_stay_gaps(stage: Stage) -> None:
    stage.chain.pruned_below = stage.chain.head - 2
    async with pylon(stage.front) as source:
        for number in (stage.chain.pruned_below - 1, stage.chain.head + 1):
            with pytest.raises(BlockUnreadable, match="See the log of the Pylon service"):
                await source.block(number)
        assert (await source.block(stage.chain.head)).hash == stage.chain.state(stage.chain.head).block.hash


async def test_commitments_are_those_of_the_chain(stage: Stage) -> None:
    stage.chain.commitments[stage.chain.neurons[20].hotkey] = b"<M:A3;S2>"
    stage.chain.mine()
    async with pylon(stage.real) as source:
        assert await source.commitments(stage.chain.head) == stage.chain.commitments


async def test_the_service_itself_is_too_old(stage: Stage) -> None:
    async with pylon(stage.real) as source:
        with pytest.raises(PylonRefused, match=r"update the service: it needs version 1\.2"):
            await source.latest()
        with pytest.raises(PylonRefused, match="update the service"):
            await source.block(stage.chain.head)
        with pytest.raises(PylonRefused, match="COLLATERAL_FROM=none"):
            await source.evm_addresses(stage.chain.head)
