"""The follower records manifests as far as they can be trusted, and no sync that voids most allowance by mistake."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from allowance import allowance, chain
from allowance.follow.manifests import EVERY, FRESH, LATELY, MANY, HeldBack, ManifestLoop, Stale, Sync, sanitised
from allowance.follow.sources import ChainBlock, Neuron
from allowance.models import Account, ManifestSync
from allowance.plumbing.threads import in_database_thread
from allowance.types import EXECUTOR_CLASSES, MAX_EXECUTORS
from tests.chains import Chain
from tests.ledgers import CLASS

pytestmark = pytest.mark.django_db(transaction=True)

MINERS = tuple(f"miner-{i}" for i in range(2 * MANY))


def chain_of(*miners: str, head: int = 100) -> Chain:
    """Return a chain whose newest block was minted now, and is recorded."""
    source = Chain(head=head, miners=miners, begins=timezone.now() - dt.timedelta(seconds=12 * head))
    record(source.made(head))
    return source


def record(block: ChainBlock) -> None:
    names = [neuron.hotkey for neuron in block.neurons]
    allowance().record_block(number=block.number, timestamp=block.timestamp, stake_share=0.25, hotkeys=names)


def write(sync: Sync) -> None:
    chain.record_manifests(block=sync.block, axons=sync.axons, executors=sync.executors)


def loop_of(source: Chain, **how: Any) -> ManifestLoop:
    async def newest() -> ChainBlock:
        return source.made(source.head)

    how = {"limits": dict, "poll": 3.0, "again_after": 0.0, **how}
    return ManifestLoop(source, newest, write, **how)


def executors() -> dict[str, int]:
    return dict(Account.objects.filter(executors__gt=0).values_list("miner", "executors"))


async def mint(source: Chain, blocks: int) -> None:
    """Mint and record the next block that is `blocks` later, minted now."""
    source.head += blocks
    source.begins = timezone.now() - dt.timedelta(seconds=12 * source.head)
    await in_database_thread(record)(source.made(source.head))


async def test_a_sync_is_made_every_25_blocks() -> None:
    source = await in_database_thread(chain_of)("alice", "bob")
    loop = loop_of(source)
    await loop.step()
    assert await in_database_thread(executors)() == {"alice": 1, "bob": 1}
    await mint(source, EVERY - 1)
    await loop.step()
    assert len(source.asked) == 1
    await mint(source, 1)
    await loop.step()
    assert len(source.asked) == 2
    blocks = ManifestSync.objects.order_by("block").values_list("block", flat=True)
    assert await in_database_thread(lambda: list(blocks))() == [100, 100 + EVERY]


async def test_all_registered_miners_are_asked_with_their_axons() -> None:
    source = await in_database_thread(chain_of)("alice")
    await loop_of(source).step()
    sync = await in_database_thread(ManifestSync.objects.get)()
    assert sync.axons["alice"] == {"address": "10.0.0.2", "ip_version": 4, "port": 9000}
    assert sync.axons["validator"]["port"] == 0
    assert source.asked == [("validator", "other-validator", "alice")]


async def test_a_silent_miner_is_asked_once_more_before_it_loses_its_allowance() -> None:
    source = await in_database_thread(chain_of)("alice", "bob")
    loop = loop_of(source)
    await loop.step()
    await mint(source, EVERY)
    source.silent = {"alice"}
    await loop.step()
    assert source.asked[-1] == ("alice",)
    assert await in_database_thread(executors)() == {"bob": 1}
    assert loop.detail["silent"] == ["alice"]


async def test_our_own_outage_voids_nothing() -> None:
    source = await in_database_thread(chain_of)(*MINERS)
    loop = loop_of(source)
    await loop.step()
    await mint(source, EVERY)
    source.silent = set(MINERS[: MANY + 1])
    with pytest.raises(HeldBack) as caught:
        await loop.step()
    assert (caught.value.silent, caught.value.declared, caught.value.wait) == (MANY + 1, len(MINERS), 60)
    assert loop.detail["held_back"] == str(caught.value)
    assert len(await in_database_thread(executors)()) == len(MINERS)
    source.silent = set(MINERS[:MANY])  # half of them are not most
    await loop.step()
    assert len(await in_database_thread(executors)()) == MANY
    assert loop.detail["held_back"] == ""


async def test_losses_that_grow_from_sync_to_sync_do_not_pass_the_brake_in_steps() -> None:
    miners = tuple(f"miner-{i}" for i in range(4 * MANY))
    source = await in_database_thread(chain_of)(*miners)
    loop = loop_of(source)
    await loop.step()
    await mint(source, EVERY)
    source.silent = set(miners[: 2 * MANY])  # half of them
    await loop.step()
    await mint(source, EVERY)
    source.silent = set(miners[: 2 * MANY + 1])  # one more: few of those that are left, but most of those of the hour
    with pytest.raises(HeldBack):
        await loop.step()
    assert len(await in_database_thread(executors)()) == 2 * MANY
    await mint(source, LATELY)
    await loop.step()
    assert len(await in_database_thread(executors)()) == 2 * MANY - 1


async def test_a_silence_can_be_accepted_once() -> None:
    source = await in_database_thread(chain_of)(*MINERS)
    await loop_of(source).step()
    await mint(source, EVERY)
    source.silent = set(MINERS)
    loop = loop_of(source, accept_silence=True)
    await loop.step()
    assert await in_database_thread(executors)() == {}
    source.silent = set()
    await mint(source, EVERY)
    await loop.step()
    source.silent = set(MINERS)
    await mint(source, EVERY)
    with pytest.raises(HeldBack):
        await loop.step()


async def test_a_miner_that_left_is_not_missed() -> None:
    source = await in_database_thread(chain_of)(*MINERS)
    await loop_of(source).step()
    source.miners = MINERS[:3]
    await mint(source, EVERY)
    await loop_of(source).step()
    assert source.asked[-1] == ("validator", "other-validator", *MINERS[:3])


async def test_miners_are_not_asked_while_the_chain_stands_still() -> None:
    source = await in_database_thread(chain_of)("alice")
    source.begins -= FRESH + dt.timedelta(seconds=1)
    with pytest.raises(Stale):
        await loop_of(source).step()
    assert source.asked == []


async def test_what_miners_invent_is_left_out_and_does_not_harm_others() -> None:
    source = await in_database_thread(chain_of)("alice", "bob", "carol", "dave")
    source.executors = {
        "alice": {CLASS: 3, "made.up": 9, "always_on.test": -1, "always_on.llm.a6000": True},
        "bob": {CLASS: 10**9, "always_on.llm.a6000": 7},
        "carol": ["not", "a", "mapping"],
        "stranger": {CLASS: 5},
    }
    loop = loop_of(source, limits=lambda: {"always_on.llm.a6000": 2})
    await loop.step()
    sync = await in_database_thread(ManifestSync.objects.get)()
    assert sync.executors == {
        "alice": {CLASS: 3},
        "bob": {CLASS: MAX_EXECUTORS, "always_on.llm.a6000": 2},
        "dave": {CLASS: 1},
    }
    assert loop.detail["clipped"] == 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
CLASSES = st.sampled_from(sorted(EXECUTOR_CLASSES)) | st.text(max_size=8)
NAMES = ("alice", "bob", "carol")
ADDRESSES = st.sampled_from(["10.0.0.1", "::", "2001:db8::1", "0.0.0.0", "not an address", ""])  # noqa: S104 (an axon)


@given(
    answers=st.dictionaries(st.sampled_from([*NAMES, "stranger"]), JSON | st.dictionaries(CLASSES, JSON, max_size=4)),
    addresses=st.lists(ADDRESSES, min_size=3, max_size=3),
    port=st.integers(0, 70_000),
    limit=st.integers(0, 5),
)
def test_a_sanitised_sync_can_always_be_recorded(
    answers: dict[str, Any], addresses: list[str], port: int, limit: int
) -> None:
    neurons = tuple(
        Neuron(uid, name, address, 4, port, permit=False, stake=0)
        for uid, (name, address) in enumerate(zip(NAMES, addresses, strict=True))
    )
    block = ChainBlock(7, "0x", "0x", timezone.now(), neurons)
    sync = sanitised(block, answers, {CLASS: limit})
    ManifestSync.objects.all().delete()
    write(sync)
    assert sync.axons.keys() == set(NAMES)
    assert all(counts.get(CLASS, 0) <= limit for counts in sync.executors.values())
