"""The follower records finalized blocks in order, fills gaps, and never records two histories."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allowance import allowance, chain
from allowance.follow import blocks as module
from allowance.follow.blocks import AT_ONCE, RETRY, WINDOW, Blocks, Stalled, check_history, missing, runs, stake_share
from allowance.follow.sources import Behind, ChainBlock, Neuron, OtherHistory, SourceBusy, SourceError
from allowance.models import Block
from allowance.oversight.forgetting import forget_blocks
from allowance.plumbing.threads import in_database_thread
from allowance.types import BLOCK_EXPIRY
from tests.chains import OTHER_VALIDATOR, VALIDATOR, Chain

pytestmark = pytest.mark.django_db(transaction=True)


class Watch:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def written(block: ChainBlock) -> None:
    check_history(block)
    chain.record_block(
        number=block.number,
        timestamp=block.timestamp,
        stake_share=stake_share(block.neurons, VALIDATOR),
        hotkeys=[neuron.hotkey for neuron in block.neurons],
        hashes=(block.hash, block.parent),
    )


def loop_of(source: Chain, write: Callable[[ChainBlock], None] = written) -> tuple[Blocks, Watch]:
    watch = Watch()
    return Blocks(source, write, monotonic=watch), watch


async def step_until_current(loop: Blocks) -> None:
    for _ in range(2 * WINDOW):
        await loop.step()
        if loop.is_current:
            return
    raise AssertionError("the follower does not become current")


def numbers() -> list[int]:
    return list(Block.objects.order_by("number").values_list("number", flat=True))


async def test_new_blocks_are_recorded_in_order() -> None:
    source = Chain(head=5)
    loop, _ = loop_of(source)
    await step_until_current(loop)
    source.head, source.read = 8, []
    await loop.step()
    assert source.read == [6, 7, 8]
    assert await in_database_thread(numbers)() == list(range(9))
    newest = await in_database_thread(Block.objects.select_related("neurons").get)(pk=8)
    assert (newest.hash, newest.parent_hash, newest.stake_share) == (source.hash_of(8), source.hash_of(7), 0.25)
    assert newest.timestamp == source.made(8).timestamp
    assert newest.neurons is not None
    assert newest.neurons.hotkeys == sorted([VALIDATOR, OTHER_VALIDATOR, *source.miners])


async def test_a_first_start_records_the_newest_block_first_and_then_backwards() -> None:
    source = Chain(head=WINDOW + 50)
    loop, _ = loop_of(source)
    await loop.step()
    assert source.read == [WINDOW + 50, WINDOW + 49]
    await loop.step()
    assert source.read[2:] == [WINDOW + 48]
    assert loop.detail["missing"] == WINDOW - 2
    assert loop.detail["gaps"] == [[50, WINDOW + 47]]


async def test_a_follower_that_was_away_for_long_records_the_newest_block_before_the_gap() -> None:
    source = Chain(head=3)
    loop, _ = loop_of(source)
    await step_until_current(loop)
    source.head, source.read = 3 + AT_ONCE + 1, []
    await step_until_current(loop)
    assert source.read == [source.head, *range(source.head - 1, 3, -1)]
    assert await in_database_thread(numbers)() == list(range(source.head + 1))


async def test_a_live_block_goes_before_a_gap() -> None:
    source = Chain(head=50)
    loop, _ = loop_of(source)
    await loop.step()
    source.head, source.read = 51, []
    await loop.step()
    assert source.read == [51, 48]


@pytest.mark.parametrize("forked", [5, 6])
async def test_nothing_is_recorded_of_another_history(forked: int) -> None:
    source = Chain(head=5)
    loop, _ = loop_of(source)
    await step_until_current(loop)
    source.head, source.forks = 6, {5: "fork"} if forked == 5 else {6: "fork"}
    if forked == 6:  # only the unrecorded block differs: this is no other history
        await loop.step()
        assert (await in_database_thread(Block.objects.get)(pk=6)).hash == source.hash_of(6)
        return
    with pytest.raises(OtherHistory) as caught:
        await loop.step()
    assert (caught.value.number, caught.value.found) == (5, source.hash_of(5))
    assert await in_database_thread(numbers)() == list(range(6))
    await in_database_thread(forget_blocks)(5)
    loop.retry_at.clear()
    await step_until_current(loop)
    assert (await in_database_thread(Block.objects.get)(pk=5)).hash == source.hash_of(5)


@pytest.mark.parametrize("more", [1, AT_ONCE, AT_ONCE + 1, 10 * AT_ONCE])
async def test_another_history_stays_refused_however_long_it_grows(more: int) -> None:
    source = Chain(head=5)
    loop, _ = loop_of(source)
    await step_until_current(loop)
    source.head, source.forks = 5 + more, {4: "fork"}
    for _ in range(3):
        with pytest.raises(OtherHistory):
            await loop.step()
    assert await in_database_thread(numbers)() == list(range(6))


async def test_a_live_block_that_fails_is_not_passed_over() -> None:
    source = Chain(head=5)
    loop, _ = loop_of(source)
    await step_until_current(loop)
    source.head, source.broken = 7, {6: OSError("reset")}
    for _ in range(2):
        with pytest.raises(OSError, match="reset"):
            await loop.step()
    assert await in_database_thread(numbers)() == list(range(6))
    source.broken = {}
    await loop.step()
    assert await in_database_thread(numbers)() == list(range(8))


@pytest.mark.parametrize("error", [SourceBusy("archive", 60, "429"), OSError("reset")])
async def test_a_source_that_gives_no_missing_blocks_delays_no_live_ones(error: Exception) -> None:
    source = Chain(head=100, broken=dict.fromkeys(range(100), error))
    loop, watch = loop_of(source)
    assert await loop.step() == pytest.approx(1 / source.pace)
    assert loop.detail["gap_error"] == str(error)
    source.head, source.read = 101, []
    assert await loop.step() == loop.poll
    assert source.read == [101], "no missing block is asked for again yet"
    watch.time += 60
    source.broken = {}
    await loop.step()
    assert source.read == [101, 99]
    assert loop.detail["gap_error"] == ""


@pytest.mark.parametrize("error", [OSError("refused"), SourceError("no answer")])
async def test_a_source_that_fails_is_connected_anew_at_once(error: Exception) -> None:
    source = Chain(head=3, fails=error)
    loop, _ = loop_of(source)
    with pytest.raises(type(error)):
        await loop.step()
    assert source.renewed == 1


async def test_a_source_that_refuses_calls_is_waited_for_but_not_for_ever() -> None:
    source = Chain(head=3, fails=SourceBusy("public node", 60, "429"))
    loop, watch = loop_of(source)
    with pytest.raises(SourceBusy):
        await loop.step()
    assert source.renewed == 0
    watch.time += module.STALL + 1
    with pytest.raises(SourceBusy):
        await loop.step()
    assert source.renewed == 1


async def test_an_unreadable_block_is_forgotten_when_it_is_too_old_to_matter() -> None:
    source = Chain(head=3, unreadable={2: 461})
    loop, _ = loop_of(source)
    await step_until_current(loop)
    source.head = 3 + WINDOW
    await loop.step()
    assert loop.detail["unreadable"] == []


async def test_a_restart_remembers_the_validators() -> None:
    source = Chain(head=5)
    loop, _ = loop_of(source)
    await step_until_current(loop)
    source.permitted = {VALIDATOR}
    other, _ = loop_of(source)
    other.restore(loop.detail)
    source.head = 6
    await other.step()
    assert other.validators() == {VALIDATOR, OTHER_VALIDATOR}


async def test_a_gap_is_held_against_the_block_after_it() -> None:
    source = Chain(head=50)
    loop, _ = loop_of(source)
    await loop.step()
    source.forks = {48: "fork"}
    with pytest.raises(OtherHistory):
        await loop.step()
    assert await in_database_thread(numbers)() == [49, 50]


async def test_blocks_that_another_program_recorded_have_no_hashes_to_compare() -> None:
    source = Chain(head=5)
    values: dict[str, Any] = {
        "number": 4,
        "timestamp": source.made(4).timestamp,
        "stake_share": 0.25,
        "hotkeys": ["alice"],
    }
    await in_database_thread(allowance().record_block)(**values)
    loop, _ = loop_of(source)
    await step_until_current(loop)
    assert await in_database_thread(numbers)() == list(range(6))


async def test_discarded_blocks_stay_missing_until_another_endpoint_has_them() -> None:
    source = Chain(head=50, discarded_below=40)
    loop, _ = loop_of(source)
    await step_until_current(loop)
    assert source.read.count(39) == 1, "it is asked once"
    assert 38 not in source.read, "older blocks are discarded too"
    assert (loop.detail["discarded"], loop.detail["gaps"]) == (40, [[0, 39]])
    source.discarded_below = 0
    await loop.renew()
    loop.retry_at.clear()
    await step_until_current(loop)
    assert await in_database_thread(numbers)() == list(range(51))


async def test_a_block_that_can_not_be_decoded_stays_a_gap_and_is_read_again() -> None:
    source = Chain(head=3, unreadable={3: 461, 2: 461})
    loop, watch = loop_of(source)
    await step_until_current(loop)
    assert await in_database_thread(numbers)() == [0, 1]
    assert [2, 461, "unknown type"] in loop.detail["unreadable"]
    source.head = 4
    await step_until_current(loop)
    assert await in_database_thread(numbers)() == [0, 1, 4]
    source.unreadable.clear()
    await loop.step()
    assert await in_database_thread(numbers)() == [0, 1, 4], "not yet"
    watch.time += RETRY
    await step_until_current(loop)
    assert await in_database_thread(numbers)() == [0, 1, 2, 3, 4]
    assert loop.detail["unreadable"] == []


async def test_a_stalled_source_is_connected_anew() -> None:
    source = Chain(head=3)
    loop, watch = loop_of(source)
    await step_until_current(loop)
    watch.time += module.STALL + 1
    with pytest.raises(Stalled) as caught:
        await loop.step()
    assert (source.renewed, caught.value.number) == (1, 3)
    await loop.step()
    assert source.renewed == 1, "the new connection has its time too"


async def test_a_source_that_hangs_is_connected_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Chain(head=3, hangs=True)
    loop, _ = loop_of(source)
    monkeypatch.setattr(loop.calls, "deadline", 0.01)
    with pytest.raises(TimeoutError, match="latest"):
        await loop.step()
    assert source.renewed == 1
    assert loop.calls.counted["latest"][:2] == [1, 1]


async def test_the_newest_recorded_block_is_kept_and_held_against_the_ledger() -> None:
    source = Chain(head=5)
    loop, _ = loop_of(source)
    assert await loop.recorded_block() is None
    await step_until_current(loop)
    source.read = []
    assert await loop.recorded_block() == source.made(5)
    assert source.read == []
    other, _ = loop_of(source)
    assert await other.recorded_block() == source.made(5)
    assert source.read == [5]
    source.forks = {5: "fork"}
    third, _ = loop_of(source)
    with pytest.raises(OtherHistory):
        await third.recorded_block()


@pytest.mark.parametrize("behind", [AT_ONCE, AT_ONCE + 1])
async def test_a_node_that_is_far_behind_is_no_source(behind: int) -> None:
    source = Chain(head=100)
    await loop_of(source)[0].step()
    source.head, source.read, source.forks = 100 - behind, [], {0: "another network"}
    other, _ = loop_of(source)
    if behind > AT_ONCE:
        with pytest.raises(Behind):
            await other.step()
    else:
        await other.step()
    assert len(source.read) == (0 if behind > AT_ONCE else 1)


async def test_validators_are_those_that_had_a_permit_lately() -> None:
    source = Chain(head=5)
    loop, _ = loop_of(source)
    await step_until_current(loop)
    assert loop.validators() == {VALIDATOR, OTHER_VALIDATOR}
    source.permitted, source.head = {VALIDATOR}, 6
    await loop.step()
    assert loop.validators() == {VALIDATOR, OTHER_VALIDATOR}
    source.head = 5 + BLOCK_EXPIRY + 1
    await loop.step()
    assert loop.validators() == {VALIDATOR}


NEURONS = st.lists(st.tuples(st.booleans(), st.integers(0, 2**64 - 1)), max_size=20)


@given(NEURONS)
def test_the_stake_share_is_ours_among_the_permitted(rows: list[tuple[bool, int]]) -> None:
    neurons = [Neuron(uid, f"hotkey-{uid}", "", 4, 0, permit, stake) for uid, (permit, stake) in enumerate(rows)]
    shares = [stake_share(neurons, neuron.hotkey) for neuron in neurons]
    assert all(0 <= share <= 1 for share in shares)
    assert all(not share for share, neuron in zip(shares, neurons, strict=True) if not neuron.permit)
    total = sum(stake for permit, stake in rows if permit)
    assert sum(shares) == pytest.approx(1 if total else 0)
    assert stake_share(neurons, "unregistered") == 0


@given(st.sets(st.integers(0, 60)))
def test_runs_cover_exactly_the_numbers(found: set[int]) -> None:
    parts = runs(sorted(found, reverse=True))
    assert sorted(number for first, last in parts for number in range(first, last + 1)) == sorted(found)
    assert all(a[1] + 1 < b[0] for a, b in itertools.pairwise(parts))


def test_missing_are_the_unrecorded_blocks_before_the_head() -> None:
    for number in (3, 5):
        written(Chain(begins=dt.datetime(2026, 1, 1, tzinfo=dt.UTC)).made(number))
    assert missing(6) == [4, 2, 1, 0]
