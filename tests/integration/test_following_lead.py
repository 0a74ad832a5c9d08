"""One follower writes. A second one stands by and takes over. No loop stops another."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django import db
from django.core.management import call_command
from django.utils import timezone

from allowance import allowance
from allowance.follow import following as module
from allowance.follow.blocks import record
from allowance.follow.following import AlreadyLed, Following
from allowance.follow.lead import Lead, LeadLost
from allowance.follow.reports import report_failure
from allowance.follow.running import attempt
from allowance.follow.sources import Head, OtherChain
from allowance.models import Block, Follower, SourceReport
from allowance.plumbing.calls import Calls
from allowance.plumbing.threads import in_database_thread
from tests.chains import VALIDATOR, Chain

pytestmark = pytest.mark.django_db(transaction=True)


def lead_of(**what: Any) -> Lead:
    return Lead(**{"genesis": "0x00", "netuid": 12, "hotkey": VALIDATOR, "source": "scripted", **what})


@pytest.fixture
def lead() -> Iterator[Lead]:
    found = lead_of()
    yield found
    found.release()


def test_only_one_follower_leads(lead: Lead) -> None:
    second = lead_of()
    assert lead.take()
    assert not second.take()
    lead.release()
    assert second.take()
    second.release()


def test_a_heartbeat_says_where_the_chain_is(lead: Lead) -> None:
    lead.take()
    lead.keep(Head(7, "0x07"))
    first = Follower.objects.get()
    lead.keep(Head(7, "0x07"))
    second = Follower.objects.get()
    assert (first.head, first.head_at, second.head_at) == (7, second.head_at, first.head_at)
    assert second.seen_at > first.seen_at
    lead.keep(Head(8, "0x08"))
    assert Follower.objects.get().head_at != first.head_at


def test_a_follower_that_lost_its_lock_unnoticed_writes_nothing(lead: Lead) -> None:
    """The control: without the comparison of the term, the first one would write too."""
    lead.take()
    lead._lock.release()
    second = lead_of()
    assert second.take()
    with pytest.raises(LeadLost):
        record(lead, Chain().made(5))
    assert not Block.objects.exists()
    record(second, Chain().made(5))
    assert Block.objects.exists()
    with pytest.raises(LeadLost):
        lead.keep(None)
    second.release()


@pytest.mark.skipif(db.connection.vendor != "postgresql", reason="a file's lock has no connection that can break")
def test_a_lock_whose_connection_was_ended_is_lost(lead: Lead) -> None:
    lead.take()
    with lead._lock._connection.cursor() as cursor:  # type: ignore[union-attr]
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()
    with db.connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    with pytest.raises(LeadLost):
        lead.keep(None)
    second = lead_of()
    assert second.take()
    second.release()


@pytest.mark.parametrize(
    ("what", "name"), [({"genesis": "0x01"}, "chain"), ({"netuid": 13}, "subnet"), ({"hotkey": "other"}, "validator")]
)
def test_the_ledger_of_another_chain_is_refused(lead: Lead, what: dict[str, Any], name: str) -> None:
    lead.take()
    record(lead, Chain().made(5))
    lead.release()
    other = lead_of(**what)
    with pytest.raises(OtherChain) as caught:
        other.take()
    assert caught.value.what == name
    assert lead.take(), "the refused one has released the lock"


def test_a_source_without_a_genesis_can_take_over(lead: Lead) -> None:
    lead.take()
    record(lead, Chain().made(5))
    lead.release()
    for genesis in ("", "0x00"):
        other = lead_of(genesis=genesis)
        assert other.take()
        other.release()
    with pytest.raises(OtherChain):
        lead_of(genesis="0x01").take()


def test_an_empty_ledger_belongs_to_no_chain(lead: Lead) -> None:
    lead.take()
    lead.release()
    other = lead_of(genesis="0x01")
    assert other.take()
    assert Follower.objects.get().genesis == "0x01"
    other.release()


def following_of(source: Chain) -> tuple[Following, list[tuple[str, dict[str, Any]]]]:
    told: list[tuple[str, dict[str, Any]]] = []
    following = Following(
        source, source, None, hotkey=VALIDATOR, tell=lambda event, **facts: told.append((event, facts)), limits=dict
    )
    for loop in following.loops:
        loop.poll = 0.001  # type: ignore[attr-defined]
    return following, told


@pytest.fixture
def now_chain() -> Chain:
    """Return a chain whose newest block was minted now."""
    return Chain(head=30, begins=timezone.now() - dt.timedelta(seconds=12 * 30))


async def test_a_follower_follows_until_a_block(now_chain: Chain) -> None:
    following, told = following_of(now_chain)
    await following.follow(asyncio.Event(), until=30)
    assert told[0] == ("lead", {})
    assert await in_database_thread(Block.objects.filter(pk=30).exists)()


async def test_the_reports_of_parts_that_do_not_run_are_forgotten(now_chain: Chain) -> None:
    await in_database_thread(report_failure)("collateral", "evm", "no route", {})
    following, _ = following_of(now_chain)
    await following.follow(asyncio.Event(), until=30)
    assert not await in_database_thread(SourceReport.objects.filter(pk="collateral").exists)()


async def test_one_run_records_all_that_is_due(now_chain: Chain) -> None:
    following, told = following_of(now_chain)
    assert await following.once() == []
    assert await in_database_thread(Block.objects.count)() == 31
    assert [facts["answered"] for event, facts in told if event == "manifests"] == [2]
    assert set(await in_database_thread(allowance().get_manifests)()) == {"alice", "bob"}


async def test_one_run_does_not_join_another_follower(now_chain: Chain) -> None:
    first, _ = following_of(now_chain)
    lead = await first._identify()
    await in_database_thread(lead.take)()
    second, _ = following_of(now_chain)
    with pytest.raises(AlreadyLed):
        await second.once()
    await in_database_thread(lead.release)()


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    while not condition():  # noqa: ASYNC110 (what is waited for has no event)
        await asyncio.sleep(0.001)


async def test_a_second_follower_stands_by_and_takes_over(now_chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STANDBY", 0.001)
    first, _ = following_of(now_chain)
    second, told = following_of(now_chain)
    stops = asyncio.Event(), asyncio.Event()
    one = asyncio.create_task(first.follow(stops[0]))
    await until(lambda: first.blocks.is_current)
    two = asyncio.create_task(second.follow(stops[1]))
    await until(lambda: bool(told))
    assert told == [("standby", {})]
    stops[0].set()
    await one
    now_chain.head += 1
    await until(lambda: now_chain.head in [facts.get("number") for _, facts in told])
    stops[1].set()
    await two


async def test_a_preview_records_nothing(now_chain: Chain) -> None:
    following, told = following_of(now_chain)
    assert await following.preview() == []
    assert [event for event, _ in told] == ["block", "manifests"]
    assert not await in_database_thread(Block.objects.exists)()
    assert not await in_database_thread(Follower.objects.exists)()
    assert not await in_database_thread(SourceReport.objects.exists)()


class Failing:
    """A loop whose source fails at first."""

    name, adapter = "failing", "scripted"

    def __init__(self) -> None:
        self.calls, self.detail = Calls(), {"n": 1}
        self.fails: Exception | None = OSError("no route")

    async def step(self) -> float:
        return await self.calls.make("ask", self.answer())

    async def answer(self) -> float:
        if self.fails:
            raise self.fails
        return 7.0

    async def close(self) -> None:
        """Do nothing."""


async def test_a_failure_is_reported_until_an_answer_comes(caplog: pytest.LogCaptureFixture) -> None:
    loop = Failing()
    assert await attempt(loop) == (0, "no route")
    loop.fails = RuntimeError("a mistake")
    await attempt(loop)
    report = await in_database_thread(SourceReport.objects.get)()
    assert (report.failures, report.error, report.good_at) == (2, "a mistake", None)
    assert report.failed_at is not None
    assert "Traceback" in caplog.text, "a mistake of ours is logged with its traceback"
    loop.fails = None
    assert await attempt(loop) == (7.0, "")
    report = await in_database_thread(SourceReport.objects.get)()
    assert (report.failures, report.error, report.failed_at) == (0, "", None)
    assert report.detail == {"n": 1, "calls": loop.calls.counted}


async def test_a_step_that_a_library_cancels_is_a_failure_and_not_the_end() -> None:
    loop = Failing()
    loop.fails = asyncio.CancelledError("by a library")  # type: ignore[assignment]
    assert await attempt(loop) == (0, "cancelled")
    assert "by a library" in (await in_database_thread(SourceReport.objects.get)()).error


async def test_a_database_that_fails_for_a_moment_ends_nothing(
    now_chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    following, _ = following_of(now_chain)
    filter_blocks, failures = Block.objects.filter, iter([db.OperationalError("away")] * 3)

    def failing(**how: Any) -> Any:
        for error in failures:
            raise error
        return filter_blocks(**how)

    monkeypatch.setattr(Block.objects, "filter", failing)
    await following.follow(asyncio.Event(), until=30)
    assert await in_database_thread(Block.objects.filter(pk=30).exists)()


async def test_a_failing_loop_does_not_stop_the_others(now_chain: Chain) -> None:
    following, _ = following_of(now_chain)
    following.loops.insert(0, Failing())
    await following.follow(asyncio.Event(), until=30)
    assert await in_database_thread(Block.objects.filter(pk=30).exists)()


@pytest.mark.parametrize("arguments", [("--only", "blocks,weather")])
def test_bad_options_are_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(Exception, match="weather"):
        call_command("follow_chain", *arguments)
