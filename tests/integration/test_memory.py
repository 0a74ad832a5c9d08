"""What a process remembers, and completes with what is new, is what it would read afresh."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from constance import config
from django.core.management import call_command
from django.db import OperationalError, connection
from hypothesis import given, settings
from hypothesis import strategies as st
from time_machine import travel

from allowance import allowance
from allowance.models import Account, ChainLock, Miner
from allowance.types import AllowanceException, BadInputError
from receipts import receipts
from receipts.models import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt
from receipts.schemas import JobAccepted, JobFinished, JobStarted
from receipts.voiding import void_receipt
from routing.decision import reading
from tests.backends import backend_pid
from tests.clock import NOW, SECOND
from tests.factories import empty_tables
from tests.ledgers import CLASS, fill_ledger
from tests.rows import hold, mint, receipt, receive
from tests.threads import side_by_side

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor == "sqlite", reason="on SQLite a process remembers nothing"),
]

JOBS = [UUID(int=n) for n in (1, 2)]
MINERS = ["anna", "bert"]
KINDS: dict[Any, Any] = {
    JobStarted: JobStartedReceipt,
    JobAccepted: JobAcceptedReceipt,
    JobFinished: JobFinishedReceipt,
}

Event = tuple[Any, ...]
RECEIPTS = st.tuples(
    st.just("receipt"),
    st.sampled_from([*KINDS]),
    st.sampled_from(JOBS),
    st.sampled_from(MINERS),
    st.sampled_from([-60, -1, 0, 50]),
    st.sampled_from([5, 600]),
)
EVENTS: st.SearchStrategy[Event] = st.one_of(
    RECEIPTS,
    RECEIPTS,
    RECEIPTS,
    st.tuples(st.just("void"), st.sampled_from([*KINDS]), st.sampled_from(JOBS)),
    st.tuples(st.just("hold"), st.sampled_from(JOBS), st.sampled_from(MINERS)),
    st.tuples(st.sampled_from(["spend", "undo"]), st.integers(0, 3)),
    st.tuples(st.just("block"), st.sets(st.sampled_from(MINERS), min_size=1)),
    st.tuples(st.just("declare"), st.sampled_from(MINERS), st.integers(0, 3), st.integers(1, 3)),
    st.tuples(st.just("deposit"), st.sampled_from(MINERS), st.integers(0, 2**70)),
    st.tuples(st.just("unused"), st.sampled_from([0, 705, 710])),
    st.tuples(st.just("forget")),
    st.tuples(st.just("wait"), st.sampled_from([1, 6, 61, 130, -100])),
)


def happen(event: Event, held: list[int], now: dt.datetime) -> None:
    match event:
        case "receipt", kind, job, miner, offset, ttl:
            lasting = {} if kind is JobFinished else {"ttl": ttl}
            receipts().record(receipt(kind, job, miner, now + offset * SECOND, **lasting), now=now)
        case "void", kind, job:
            for row in KINDS[kind].objects.filter(job_uuid=job, voided_at=None):
                void_receipt(row, by="carl", reason="wrong", now=now)
        case "hold", job, miner:
            held.append(hold(miner, 6, job=job)[0])
        case "spend", place:
            allowance().spend_allowance(held[place])
        case "undo", place:
            allowance().undo_allowance_reservation(held[place])
        case "block", registered:
            mint(allowance().get_current_block() + 1, now, hotkeys=sorted(registered))
        case "declare", miner, executors, port:
            axon = {"address": "10.0.0.9", "ip_version": 4, "port": port}
            block = allowance().get_current_block()
            allowance().record_manifests(block=block, axons={miner: axon}, executors={miner: {CLASS: executors}})
        case "deposit", miner, wei:
            allowance().record_collateral(hotkey=miner, wei=wei)
        case "unused", blocks:
            config.DYNAMIC_ROUTING_UNUSED_BLOCKS = blocks
        case ("forget",):
            reading.forget()


def seen(now: dt.datetime) -> dict[str, Any]:
    """Return what a decision would see of each miner."""
    state = reading.read(CLASS, now).state
    board = {
        line.hotkey: (line, *state.board.columns[slot], state.board.wei[slot])
        for slot, line in enumerate(state.board.lines)
    }
    return {hotkey: (row.balance, row.ongoing, board.get(hotkey)) for hotkey, row in state.rows.items()}


@settings(max_examples=50)
@given(st.lists(EVENTS, min_size=6, max_size=14))
def test_a_memory_is_as_good_as_a_fresh_reading(events: list[Event]) -> None:
    empty_tables()
    reading.forget()
    held: list[int] = []
    now = NOW
    with travel(now, tick=False) as traveller:
        fill_ledger(*MINERS, executors=2)
        seen(now)
        for event in events:
            if event[0] == "wait":
                now += event[1] * SECOND
                traveller.move_to(now)
            try:
                happen(event, held, now)
            except (AllowanceException, BadInputError, IndexError):
                continue
            remembered = seen(now)
            kept = dict(reading._states)
            reading.forget()
            assert remembered == seen(now)
            reading._states.update(kept)


def test_an_accepted_receipt_counts_as_soon_as_its_started_receipt_comes() -> None:
    """It is older than what is new, and was left out before: it had no started receipt that told its class."""
    with travel(NOW, tick=False):
        fill_ledger("anna", executors=1)
        happen(("receipt", JobAccepted, JOBS[0], "anna", 0, 600), [], NOW)
        seen(NOW)
        happen(("receipt", JobStarted, JOBS[0], "anna", 0, 5), [], NOW)
        later = NOW + 8 * SECOND
        assert seen(later)["anna"][1] == {str(JOBS[0])}


def ongoing(now: dt.datetime | None = None) -> set[str | int]:
    return reading.read(CLASS, now).state.rows["anna"].ongoing


@pytest.mark.parametrize("pinned", [True, False])
def test_a_job_that_had_ended_runs_again_if_the_clock_steps_back(pinned: bool) -> None:
    """A reading of a later time does not know it."""
    later = NOW + 200 * SECOND
    with travel(NOW, tick=False) as traveller:
        fill_ledger("anna", executors=1)
        happen(("receipt", JobStarted, JOBS[0], "anna", 0, 30), [], NOW)
        reading.forget()
        if not pinned:
            traveller.move_to(later)
        assert ongoing(later if pinned else None) == set()
        traveller.move_to(NOW + 10 * SECOND)
        assert ongoing() == {str(JOBS[0])}


def test_a_flush_is_noticed() -> None:
    """As between the tests of a site's own suite."""
    fill_ledger("anna", executors=1)
    receive(JobStarted)
    assert ongoing()
    call_command("flush", verbosity=0, interactive=False)
    fill_ledger("anna", executors=1)
    assert not ongoing()


def test_an_account_that_came_without_a_new_version_of_the_chain_is_seen() -> None:
    fill_ledger("anna", "bert")
    assert reading.read(CLASS).state.rows.keys() == {"anna", "bert"}
    version = ChainLock.objects.get().version
    Account.objects.filter(miner="bert").delete()
    reading.forget()
    assert reading.read(CLASS).state.rows.keys() == {"anna"}
    Account.objects.create(miner=Miner.objects.get(pk="bert"), executor_class=CLASS)
    assert ChainLock.objects.get().version == version
    for _ in range(2):
        assert reading.read(CLASS).state.rows.keys() == {"anna", "bert"}


def end_backend(pid: int | None) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        return bool(cursor.fetchone()[0])


def test_a_reading_in_a_transaction_without_autocommit_is_not_repeated_on_another_connection() -> None:
    """What the transaction has written would be lost without a word."""
    fill_ledger("anna")
    connection.set_autocommit(False)
    try:
        Account.objects.update(executors=1)
        (pid,) = side_by_side(partial(end_backend, backend_pid()))
        assert pid is True
        with pytest.raises(OperationalError):
            reading.read(CLASS)
    finally:
        connection.close()
    assert not connection.in_atomic_block


def test_a_change_by_hand_without_a_version_is_read_after_a_while() -> None:
    with travel(NOW, tick=False):
        fill_ledger("anna", executors=2)
        seen(NOW)
        Account.objects.update(executors=1)
        Miner.objects.update(wei=7)
        assert amounts("anna") == (2, 0)
        for place, state in reading._states.items():
            reading._states[place] = replace(state, until=time.monotonic())
        assert amounts("anna") == (1, 7)


def amounts(miner: str) -> tuple[int, int]:
    balance = seen(NOW)[miner][0]
    return balance.executors, balance.wei
