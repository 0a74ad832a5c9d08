"""The adapter `subtensor`, with the real bittensor library, against nodes of a scripted chain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from allowance.follow.sources import (
    BlockUnreadable,
    ChainSource,
    Neuron,
    SourceBusy,
    SourceError,
    StateDiscarded,
)
from allowance.follow.subtensor import Subtensor
from allowance.plumbing.calls import Calls
from tests.live.chain import FIRST, GENESIS, NETUID, Chain, changed, hotkey, subnet
from tests.live.fixtures import NEW, OLD, SPECS
from tests.live.node import Node, Refusal, served
from tests.programs import DEADLINE, wait_until

pytestmark = pytest.mark.live

Follow = Callable[..., Subtensor]
Serve = Callable[..., Node]

NEVER = 0.2
"""A deadline (s) for calls that a node never answers."""

CONTENT = {
    hotkey("neuron 20"): b"<M:A3;S2>",
    hotkey("neuron 21"): b'{"contract":{"address":"0x' + b"ab" * 20 + b'"}}' + bytes(range(256)),
    hotkey("left"): b"",
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the library an empty home folder."""
    monkeypatch.delenv("BITTENSOR_RUNTIME_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return what runs a node of a chain until the end of the test."""
    with ExitStack() as stack:
        yield lambda chain, **how: stack.enter_context(served(chain, **how))


@pytest_asyncio.fixture
async def follow() -> AsyncIterator[Follow]:
    """Return what makes an adapter for nodes. All are closed at the end, and leave no task behind."""
    made: list[Subtensor] = []

    def make(*nodes: Node, archive: Node | None = None) -> Subtensor:
        made.append(Subtensor([node.url for node in nodes], archive.url if archive else "", NETUID))
        return made[-1]

    before = asyncio.all_tasks()
    yield make
    async with asyncio.timeout(DEADLINE):
        for source in made:
            await source.close()
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        await asyncio.gather(*left, return_exceptions=True)


def chain(spec: int = NEW) -> Chain:
    return Chain(subnet(), evm={0: "0x" + "ab" * 20, 255: "0x" + "0c" * 20}, commitments=CONTENT, spec=spec)


def files(folder: Path) -> set[str]:
    """Return the folders with files in them."""
    return {path.relative_to(folder).parent.as_posix() for path in folder.rglob("*") if path.is_file()}


async def assert_equal(source: ChainSource, script: Chain) -> None:
    """Assert that the source says what the script says, for each finalized block."""
    assert await source.latest() == script.finalized
    for number in range(script.first, script.finalized.number + 1):
        state = script.state(number)
        assert await source.block(number) == state.block
        assert await source.evm_addresses(number) == state.evm
        assert await source.commitments(number) == state.commitments


@pytest.mark.parametrize("spec", SPECS)
async def test_it_says_what_the_chain_says(spec: int, serve: Serve, follow: Follow) -> None:
    script = chain(spec)
    source = follow(serve(script))
    assert await source.genesis() == GENESIS
    script.neurons = changed(script.neurons, 30, address="2001:db8::1", ip_version=6, port=65_535)
    script.neurons = changed(script.neurons, 31, address="255.1.2.3", port=1, permit=True, stake=2**63)
    script.mine()
    script.neurons = changed(script.neurons, 0, hotkey=hotkey("newcomer"), permit=False, stake=0)
    script.evm = {0: "0x" + "ff" * 20, 7: "0x" + "ff" * 20}
    script.mine()
    script.neurons, script.evm, script.commitments = script.neurons[:3], {}, {}
    script.mine(3)
    await assert_equal(source, script)


@pytest.mark.parametrize(("before", "after"), [(OLD, NEW), (NEW, OLD)])
async def test_the_block_of_an_upgrade_is_read_with_its_own_runtime(
    before: int, after: int, serve: Serve, follow: Follow
) -> None:
    script = chain(before)
    source = follow(serve(script))
    await assert_equal(source, script)
    script.mine(2)
    script.spec = after
    script.mine(6)
    assert {script.state(number).spec for number in range(FIRST, script.head)} == {before, after}
    await assert_equal(source, script)
    await assert_equal(follow(serve(script)), script)  # a follower that starts after the upgrade


async def test_a_neuron_whose_address_is_none_does_not_listen(serve: Serve, follow: Follow) -> None:
    strange = [Neuron(0, hotkey(0), "::", 6, 80, False, 0), Neuron(1, hotkey(1), "2001:db8::1", 4, 80, False, 0)]
    source = follow(serve(Chain(strange)))
    found = (await source.block(FIRST)).neurons
    assert [(neuron.address, neuron.ip_version, neuron.port) for neuron in found] == [("0.0.0.0", 4, 0)] * 2  # noqa: S104


async def test_a_subnet_that_the_chain_lacks_is_told(serve: Serve) -> None:
    source = Subtensor([serve(chain()).url], "", NETUID + 1)
    with pytest.raises(SourceError, match="no subnet 13"):
        await source.block(FIRST)
    await source.close()


async def test_only_finalized_blocks_are_latest(serve: Serve, follow: Follow) -> None:
    script = chain()
    source = follow(serve(script))
    script.mine(3)
    script.fork()
    assert await source.latest() == script.finalized
    script.finalizing = False
    stalled = script.finalized
    script.mine(5)
    assert await source.latest() == stalled
    script.fork(4)
    script.finalizing = True
    script.mine()
    await assert_equal(source, script)


async def test_a_discarded_state_is_told(serve: Serve, follow: Follow) -> None:
    script = chain()
    script.mine(5)
    source = follow(serve(script))
    await assert_equal(source, script)
    script.pruned_below = FIRST + 3
    for read in (source.block, source.evm_addresses, source.commitments):
        with pytest.raises(StateDiscarded, match=rf"state of block {FIRST + 2}\."):
            await read(FIRST + 2)
    assert await source.block(FIRST + 3) == script.state(FIRST + 3).block


async def test_the_archive_has_discarded_states(serve: Serve, follow: Follow) -> None:
    script = chain()
    script.mine(5)
    script.pruned_below = script.head
    lite, archive = serve(script), serve(script, archive=True)
    await assert_equal(follow(lite, archive=archive), script)
    assert lite.calls["chain_getFinalizedHead"]
    with pytest.raises(StateDiscarded):
        await follow(lite, archive=archive).block(FIRST - 3)


async def test_a_block_to_come_is_no_discarded_one(serve: Serve, follow: Follow) -> None:
    script = chain()
    with pytest.raises(SourceError, match=f"does not have block {script.head + 1}"):
        await follow(serve(script)).block(script.head + 1)


async def test_a_block_that_does_not_decode_names_the_runtime(serve: Serve, follow: Follow) -> None:
    script = chain(OLD)
    node = serve(script)
    source = follow(node)
    node.unreadable = True
    with pytest.raises(BlockUnreadable) as caught:
        await source.block(FIRST)
    assert (caught.value.number, caught.value.runtime) == (FIRST, OLD)
    assert await source.evm_addresses(FIRST) == script.evm
    node.unreadable = False
    assert await source.block(FIRST) == script.state(FIRST).block


@pytest.mark.parametrize("when", ["before the first call", "between calls"])
@pytest.mark.parametrize(("refusal", "wait"), [("429", 90), ("1008", 60), ("-32004", 90)])
async def test_a_refusal_says_how_long_to_wait(
    refusal: Refusal, wait: float, when: str, serve: Serve, follow: Follow
) -> None:
    script = chain()
    node = serve(script)
    source = follow(node)
    if when == "between calls":
        await source.latest()
        node.refusing = refusal
        if refusal == "429":
            await source.renew()
    node.refusing = refusal
    with pytest.raises(SourceBusy) as caught:
        await source.latest()
    assert caught.value.wait == wait
    assert caught.value.source == f"subtensor {node.url}"
    node.refusing = ""
    await assert_equal(source, script)


@pytest.mark.parametrize("fault", [Node.drop, Node.hang_up, lambda node: node.hang_up(1000)])
async def test_a_lost_connection_is_made_again(fault: Callable[[Node], None], serve: Serve, follow: Follow) -> None:
    script = chain()
    node = serve(script)
    source = follow(node)
    calls = Calls()
    for _ in range(3):
        await calls.make("latest", source.latest(), DEADLINE)
        fault(node)
        script.mine()
        await calls.make("block", source.block(script.finalized.number), DEADLINE)
    await assert_equal(source, script)


@pytest.mark.parametrize("fault", [Node.drop, Node.hang_up, lambda node: node.hang_up(1000)])
async def test_a_call_survives_a_connection_that_is_lost_meanwhile(
    fault: Callable[[Node], None], serve: Serve, follow: Follow
) -> None:
    script = chain()
    node = serve(script)
    source = follow(node)
    await source.latest()
    node.silent = True
    heard = node.calls.total()
    call = asyncio.create_task(source.latest())
    async with asyncio.timeout(DEADLINE):
        await asyncio.to_thread(wait_until, lambda: node.calls.total() > heard)
        node.silent = False
        fault(node)
        assert await call == script.finalized


async def test_after_silence_a_deadline_and_renewal_go_to_the_next_node(serve: Serve, follow: Follow) -> None:
    script = chain()
    first, second = serve(script), serve(script)
    source, calls = follow(first, second), Calls()
    await source.latest()
    assert source.name == f"subtensor {first.url}"
    first.silent = True
    with pytest.raises(TimeoutError):
        await calls.make("latest", source.latest(), NEVER)
    await source.renew()
    assert source.name == f"subtensor {second.url}"
    await assert_equal(source, script)
    first.silent = False
    await source.renew()
    assert source.name == f"subtensor {first.url}"
    await assert_equal(source, script)


async def test_a_node_that_is_silent_from_the_start_is_left(serve: Serve, follow: Follow) -> None:
    script = chain()
    first, second = serve(script), serve(script)
    source, calls = follow(first, second), Calls()
    await source.latest()  # the library is loaded
    await source.close()
    first.silent = True
    with pytest.raises(TimeoutError):
        await calls.make("latest", source.latest(), NEVER)
    await assert_equal(source, script)
    assert source.name == f"subtensor {second.url}"


async def test_a_half_dead_connection_is_thrown_away(serve: Serve, follow: Follow) -> None:
    script = chain()
    first, second = serve(script), serve(script)
    source, calls = follow(first, second), Calls()
    await source.latest()
    with first.frozen():
        with pytest.raises(TimeoutError):
            await calls.make("latest", source.latest(), NEVER)
        await calls.make("renew", source.renew(), DEADLINE)
        await assert_equal(source, script)
        await calls.make("close", source.close(), DEADLINE)


async def test_a_node_that_can_t_be_reached_is_left(serve: Serve, follow: Follow) -> None:
    script = chain()
    with served(script) as gone:
        pass
    node = serve(script)
    source = follow(gone, node)
    with pytest.raises(SourceError, match=f"subtensor {gone.url} gave no answer"):
        await source.latest()
    await assert_equal(source, script)


async def test_a_node_that_comes_back_is_found_again(serve: Serve, follow: Follow) -> None:
    script = chain()
    with served(script) as node:
        source = follow(node)
        await source.latest()
    with pytest.raises(SourceError):
        await source.latest()
    again = serve(script, port=node.port)
    assert again.url == node.url
    await assert_equal(source, script)


async def test_a_call_in_flight_ends_when_the_connection_is_thrown_away(serve: Serve, follow: Follow) -> None:
    node = serve(chain())
    source = follow(node)
    await source.latest()
    node.silent = True
    call = asyncio.create_task(source.latest())
    await asyncio.sleep(0)
    async with asyncio.timeout(DEADLINE):
        await source.renew()
        with pytest.raises(SourceError):
            await call


async def test_calls_at_once_share_a_connection(serve: Serve, follow: Follow) -> None:
    script = chain()
    node = serve(script)
    source = follow(node)
    numbers = range(FIRST, script.finalized.number + 1)
    found = await asyncio.gather(source.latest(), *map(source.block, numbers), *map(source.evm_addresses, numbers))
    assert found[0] == script.finalized
    assert node.calls["state_call"] == 1 + len(numbers)  # one is for the metadata


class Heard(logging.Handler):
    """The names of the loggers whose records reach it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.names.add(record.name.partition(".")[0])


async def test_nothing_is_written_but_the_cache_of_runtimes(
    serve: Serve, follow: Follow, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = chain()
    node = serve(script)
    source = follow(node)
    root, library, heard = logging.getLogger(), logging.getLogger("bittensor"), Heard()
    handlers = [*root.handlers]
    root.addHandler(heard)
    try:
        await source.latest()
        library.setLevel(logging.DEBUG)
        await assert_equal(source, script)
        node.drop()
        await assert_equal(source, script)
    finally:
        library.setLevel(logging.NOTSET)
        root.removeHandler(heard)
    assert root.handlers == handlers
    assert "bittensor" not in heard.names
    assert capfd.readouterr() == ("", "")
    assert files(home) == {".bittensor/runtime-cache"}
