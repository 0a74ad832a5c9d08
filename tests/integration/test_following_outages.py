"""What the follower survives: a database or a node that is away, and an end that is asked for at any time."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import psycopg
import pytest
from django.db import connection
from django.utils import timezone

from allowance.follow import blocks as module
from allowance.follow import following as following_module
from allowance.follow.blocks import AT_ONCE, RETRY, STALL, WINDOW
from allowance.follow.following import Following
from allowance.follow.lead import Lead
from allowance.follow.running import run
from allowance.follow.sources import Head, OtherHistory, SourceBusy, SourceError, StateDiscarded
from allowance.models import Block
from allowance.plumbing.threads import in_database_thread
from allowance.types import LockTimeout
from tests.chains import VALIDATOR, Chain
from tests.integration.test_following_blocks import loop_of, numbers, step_until_current

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def now_chain() -> Chain:
    """Return a chain whose newest block was minted now."""
    return Chain(head=30, begins=timezone.now() - dt.timedelta(seconds=12 * 30))


def following_of(source: Chain) -> Following:
    return Following(source, source, None, hotkey=VALIDATOR, tell=lambda *_a, **_k: None, limits=dict)


async def test_a_follower_tries_again_if_others_keep_the_ledger_locked(
    now_chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []
    take = Lead.take

    def fail_once(lead: Lead) -> bool:
        tries.append(1)
        if len(tries) == 1:
            raise LockTimeout
        return take(lead)

    monkeypatch.setattr(Lead, "take", fail_once)
    monkeypatch.setattr(following_module, "FIRST_WAIT", 0.001)
    await following_of(now_chain).follow(asyncio.Event(), until=30)
    assert len(tries) == 2


@pytest.mark.skipif(connection.vendor != "postgresql", reason="An advisory lock of PostgreSQL.")
async def test_a_server_that_refuses_connections_does_not_end_a_follower(
    now_chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, tries = psycopg.connect, list[int]()

    def refuse(*args: Any, **kwargs: Any) -> Any:
        tries.append(1)
        if len(tries) == 1:
            raise psycopg.OperationalError("connection refused")
        return connect(*args, **kwargs)

    following = following_of(now_chain)
    await following._identify()
    monkeypatch.setattr(following_module, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(psycopg, "connect", refuse)
    await following.follow(asyncio.Event(), until=30)


async def test_a_follower_without_loops_ends_when_it_is_told() -> None:
    stop = asyncio.Event()
    stop.set()
    await run([], stop)


class Erring(Chain):
    """A chain whose first endpoint answers with errors; `renew` goes on to one that works."""

    async def latest(self) -> Head:
        if not self.renewed:
            raise SourceError("Internal error.")
        return await super().latest()


async def test_a_source_that_answers_with_errors_only_is_left_for_the_next_endpoint() -> None:
    source = Erring(head=5)
    loop, watch = loop_of(source)
    for _ in range(3):
        with pytest.raises(SourceError):
            await loop.step()
        if source.renewed:
            break
        watch.time += STALL + 1
    assert source.renewed
    await step_until_current(loop)


async def test_a_source_whose_head_moves_but_gives_no_block_is_left_for_the_next_endpoint() -> None:
    class NoBlocks(Chain):
        async def block(self, number: int) -> Any:
            if not self.renewed:
                raise SourceError("Internal error.")
            return await super().block(number)

    source = NoBlocks(head=5)
    loop, watch = loop_of(source)
    for _ in range(4):
        source.head += 1
        try:
            await loop.step()
        except SourceError:
            watch.time += STALL + 1
    assert source.renewed


async def test_another_history_stays_refused_however_far_it_grows() -> None:
    source = Chain(head=5)
    loop, _ = loop_of(source)
    await step_until_current(loop)
    source.head, source.forks = 6 + AT_ONCE, {5: "fork"}
    with pytest.raises(OtherHistory):
        await loop.step()
    assert await in_database_thread(numbers)() == list(range(6))


async def test_another_chain_behind_the_next_endpoint_is_not_recorded() -> None:
    class Two(Chain):
        async def genesis(self) -> str:
            return "0x" + ("22" if self.renewed else "11") * 32

        async def renew(self) -> None:
            await super().renew()
            self.head, self.forks = 5000, {0: "another chain"}

    now = timezone.now()
    source = Two(head=30, begins=now - dt.timedelta(seconds=12 * 5000))
    following = following_of(source)
    lead = await following._identify()
    assert await in_database_thread(lead.take)()
    try:
        await following.blocks.step()
        await following.blocks.renew()
        with pytest.raises(SourceError):
            await following.blocks.step()
        assert not await in_database_thread(Block.objects.filter(number__gt=30).exists)()
    finally:
        await in_database_thread(lead.release)()


async def test_blocks_whose_state_was_away_for_a_moment_are_read_again() -> None:
    source = Chain(head=50)
    loop, watch = loop_of(source)
    await loop.step()
    source.head, source.discarded_below = 51, 10**9
    with pytest.raises(StateDiscarded):
        await loop.step()
    source.discarded_below = 0
    watch.time += RETRY + 1
    await step_until_current(loop)
    assert await in_database_thread(numbers)() == list(range(52))


async def test_a_live_block_that_failed_once_is_read_again_at_once() -> None:
    class Flaky(Chain):
        async def block(self, number: int) -> Any:
            if number == 6 and 6 not in self.read:
                self.read.append(6)
                raise SourceError("A hiccup.")
            return await super().block(number)

    source = Flaky(head=5)
    loop, _ = loop_of(source)
    await step_until_current(loop)
    source.head = 6
    with pytest.raises(SourceError):
        await loop.step()
    source.head = 7
    await loop.step()
    assert await in_database_thread(numbers)() == list(range(8))


async def test_an_unreadable_block_that_nobody_needs_any_more_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Chain(head=3, unreadable={3: 461})
    loop, watch = loop_of(source)
    await loop.step()
    assert loop.detail["unreadable"]
    monkeypatch.setattr(module, "WINDOW", 20)
    source.head = 3 + 2 * 20
    watch.time += RETRY + 1
    await step_until_current(loop)
    assert WINDOW > 20
    assert loop.detail["unreadable"] == []


@pytest.mark.parametrize("asked", [float("nan"), float("inf"), 1e9])
def test_no_node_stops_the_follower_for_ever(asked: float) -> None:
    assert 60 <= SourceBusy("node", asked, "429").wait <= 3600
