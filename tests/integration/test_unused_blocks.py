"""The oldest blocks that stay unused: picks, dry runs, replays and the log agree on them. Direct calls use all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from constance import config
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest_django import Settings

from allowance.ledger import Window
from allowance.types import BLOCK_EXPIRY, NotEnoughAllowanceException
from routing import routing, service
from routing.decision import book, in_force, pipeline, reading
from routing.decision.book import DryBook
from routing.decision.model import Decision
from routing.decision.pipeline import decide
from routing.decision.state import State
from routing.dynamic import MAX_UNUSED_BLOCKS
from routing.log import replay
from routing.models import DecisionRecord
from routing.types import JobRoute
from tests.factories import empty_tables, job_request, run_command
from tests.ledgers import CLASS, FIRST_BLOCK, NEWEST, fill_ledger
from tests.pages import page
from tests.rows import free, hold

pytestmark = pytest.mark.usefixtures("ledger_clean_at_the_end")

THREE = FIRST_BLOCK + 3 - (NEWEST - BLOCK_EXPIRY)
"""As many unused blocks as leave out the first three that are recorded."""


@pytest.fixture(autouse=True)
def all_candidates_are_kept(settings: Settings) -> None:
    settings.ROUTING_DECISIONS_SAMPLE = 1.0


def leave(blocks: int) -> None:
    config.DYNAMIC_ROUTING_UNUSED_BLOCKS = blocks


def pick(seconds: int = 12) -> list[int]:
    """Pick, and return the blocks."""
    return routing().pick(job_request(seconds)).allowance_blocks or []


def dry_run(seconds: int = 12, **what: Any) -> Decision:
    return decide(job_request(seconds), DryBook(), **what)


def result(decision: Decision) -> tuple[object, ...]:
    """Return what a decision came to, without its time and its reservation."""
    route = decision.route and (decision.route.miner, decision.route.allowance_blocks)
    return decision.outcome, route, [(c.hotkey, c.free_seconds, c.rank, c.verdict) for c in decision.candidates]


def routed(decision: Decision) -> JobRoute:
    assert decision.route
    return decision.route


def test_the_bound_is_that_of_the_ledger() -> None:
    assert MAX_UNUSED_BLOCKS == BLOCK_EXPIRY


@pytest.mark.parametrize(
    ("newest", "unused", "low"),
    [
        (BLOCK_EXPIRY, 0, 0),
        (BLOCK_EXPIRY, 1, 1),
        (BLOCK_EXPIRY, BLOCK_EXPIRY, BLOCK_EXPIRY),
        (BLOCK_EXPIRY - 5, 5, 0),
        (BLOCK_EXPIRY - 5, 6, 1),
        (20, 15, 0),
    ],
)
def test_a_window_leaves_out_what_expires_next_also_if_it_is_not_recorded(newest: int, unused: int, low: int) -> None:
    window = Window(0, np.arange(newest + 1), newest, 7).without_oldest(unused)
    assert (window.low, window.newest, window.version) == (low, newest, 7)
    assert window.ns.tolist() == [*range(low, newest + 1)]


def test_an_empty_window_stays_empty() -> None:
    empty = State().chain.window
    assert empty.without_oldest(5) is empty


def test_a_pick_leaves_the_oldest_blocks_as_soon_as_the_setting_says_so_and_no_longer() -> None:
    fill_ledger("anna", executors=5)
    assert pick(30) == [FIRST_BLOCK]
    leave(THREE)
    assert pick(30) == [FIRST_BLOCK + 3]
    leave(THREE + 2)
    assert pick(30) == [FIRST_BLOCK + 5]
    leave(0)
    assert pick(30) == [FIRST_BLOCK + 1]


def test_blocks_that_are_far_from_their_end_are_used() -> None:
    """The number counts from the oldest block that may pay, not from the oldest one that is recorded."""
    fill_ledger("anna")
    leave(15)
    assert pick() == [FIRST_BLOCK]


def test_direct_calls_use_all_blocks() -> None:
    fill_ledger("anna")
    leave(THREE)
    assert free() == {"anna": 240.0}
    assert hold("anna", 12)[1] == [FIRST_BLOCK]


def test_a_pick_makes_no_more_statements() -> None:
    fill_ledger("anna", executors=9)

    def statements() -> int:
        with CaptureQueriesContext(connection) as captured:
            pick()
        return len(captured)

    pick()
    usual = statements()
    leave(THREE)
    pick()  # the field of constance reads and stores
    assert statements() == statements() == usual


@settings(max_examples=40)
@given(
    unused=st.one_of(st.just(0), st.integers(0, BLOCK_EXPIRY), st.integers(THREE - 3, BLOCK_EXPIRY)),
    seconds=st.sampled_from([1, 12, 13, 60, 300]),
    taken=st.lists(st.tuples(st.sampled_from(["anna", "bert"]), st.sampled_from([6, 12, 40])), max_size=4),
)
def test_no_reserved_block_is_one_of_the_oldest_and_a_dry_run_and_a_replay_agree(
    unused: int, seconds: int, taken: list[tuple[str, int]]
) -> None:
    empty_tables()
    reading.forget()
    fill_ledger("anna", "bert", executors=5)
    for miner, of_seconds in taken:
        hold(miner, of_seconds)
    leave(unused)
    dry, live = result(dry_run(seconds)), service.pick(job_request(seconds))
    assert result(live) == dry
    if live.route:
        assert min(live.route.allowance_blocks or []) >= NEWEST - BLOCK_EXPIRY + unused
        service.release_undelivered(live.route)
    record = DecisionRecord.objects.latest("pk")
    assert record.unused_blocks == unused
    assert replay.differences(record) == []
    leave(0)
    assert result(dry_run(seconds, policy=in_force.make_policy(0, 24.0, unused))) == dry


def test_a_setting_that_changes_during_a_pick_counts_from_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pick reads again under the lock, but keeps the policy that it was asked by, and that its record has."""
    monkeypatch.setattr(book, "READINGS", 1)
    fill_ledger("anna", executors=3)
    leave(THREE)
    settle = pipeline.settle

    def settle_late(*asked: Any, **how: Any) -> Decision:
        monkeypatch.setattr(pipeline, "settle", settle)
        hold("anna", 6)  # the account has another version now
        leave(0)
        return settle(*asked, **how)

    monkeypatch.setattr(pipeline, "settle", settle_late)
    assert pick() == [FIRST_BLOCK + 3]
    record = DecisionRecord.objects.get()
    assert record.unused_blocks == THREE
    assert replay.differences(record) == []
    assert pick() == [FIRST_BLOCK + 1]


def test_a_dry_run_says_how_many_blocks_stay_unused() -> None:
    fill_ledger("anna")
    job = ("dry_run_routing", "--executor-class", CLASS, "--seconds", 12)
    assert "unused" not in run_command(*job).out
    assert f"(the {THREE} oldest blocks stay unused)" in run_command(*job, "--unused-blocks", THREE).out
    leave(THREE)
    told = run_command(*job).out
    assert f"paid with 1 blocks ({FIRST_BLOCK + 3} to {FIRST_BLOCK + 3})" in told
    assert f"1 of 1 miners eligible (the {THREE} oldest blocks stay unused)" in told
    assert f'"unused_blocks": {THREE}' in run_command(*job, "--format", "json").out
    assert f"paid with 1 blocks ({FIRST_BLOCK} to {FIRST_BLOCK})" in run_command(*job, "--unused-blocks", 0).out


@pytest.mark.parametrize("blocks", [-1, BLOCK_EXPIRY + 1])
def test_a_dry_run_refuses_a_number_of_blocks_out_of_bounds(blocks: int) -> None:
    ended = run_command("dry_run_routing", "--executor-class", CLASS, "--seconds", 12, "--unused-blocks", blocks)
    assert ended.code == 2
    assert "--unused-blocks: The number of unused blocks must be 0 to 722" in ended.err


def test_the_pages_say_how_many_blocks_stay_unused(admin_client: Client) -> None:
    fill_ledger("anna")
    board = reverse("admin:routing_board")
    job: dict[str, Any] = {"executor_class": CLASS, "seconds": 12}
    assert "oldest blocks stay unused" not in admin_client.get(board, job).content.decode()
    asked = admin_client.get(board, {**job, "unused_blocks": THREE})
    assert f"the {THREE} oldest blocks stay unused" in asked.content.decode()
    assert routed(asked.context["decision"]).allowance_blocks == [FIRST_BLOCK + 3]
    assert admin_client.get(board, {**job, "unused_blocks": 723}).context["decision"] is None
    leave(THREE)
    pick()
    told = admin_client.get(page(DecisionRecord.objects.get(), "change")).content.decode()
    assert f"{THREE} oldest blocks unused" in told
    assert f"the {THREE} oldest blocks stay unused" in told


def test_the_explanation_says_how_many_blocks_stayed_unused() -> None:
    fill_ledger("anna")
    leave(THREE)
    job = job_request(12)
    routing().pick(job)
    leave(0)
    assert f"(the {THREE} oldest blocks stay unused)" in run_command("explain_job", job.uuid).out
    assert f'"unused_blocks": {THREE}' in run_command("explain_job", job.uuid, "--format", "json").out
    assert run_command("explain_job", job.uuid, "--replay").code == 0


def test_a_refusal_names_the_setting_if_it_leaves_many_blocks_unused() -> None:
    fill_ledger("anna")
    leave(BLOCK_EXPIRY)
    with pytest.raises(NotEnoughAllowanceException, match="The 722 oldest blocks stay unused: see DYNAMIC_ROUTING_UNU"):
        routing().pick(job_request(12), now=timezone.now())
