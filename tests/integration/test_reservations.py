"""The life of a reservation: held, then spent, released or expired, once."""

from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import uuid4

import pytest
import time_machine
from django.db import IntegrityError, transaction

from allowance import allowance, state
from allowance.models import Reservation
from allowance.types import (
    CannotReserveAllowanceException,
    NotEnoughAllowanceException,
    ReservationNotFound,
    ReservationReleased,
)
from receipts import receipts
from receipts.schemas import JobFinished, JobStarted
from routing import routing
from routing.decision import book
from routing.decision.book import DryBook, LiveBook
from routing.decision.model import Decision, Gate, Verdict
from routing.decision.ongoing import Observed, observe
from routing.decision.pipeline import check_request, decide, gather
from routing.types import AllMinersBusy
from tests.factories import CLASS, FIRST_BLOCK, fill_ledger, job_request

pytestmark = pytest.mark.usefixtures("ledger_clean_at_the_end")

NEWEST = FIRST_BLOCK + 20


def reserve(seconds: float = 30) -> tuple[int, list[int]]:
    return allowance().reserve_allowance(
        miner="anna", executor_class=CLASS, allowance_seconds=seconds, job_start_block=NEWEST
    )


def free() -> float:
    """Seconds that anna has free: 12 s a block of its 20 with a known duration."""
    found = allowance().find_miners_with_allowance(
        allowance_seconds=0.001, executor_class=CLASS, job_start_block=NEWEST
    )
    return dict(found)["anna"]


def question(seconds: int, at: dt.datetime) -> Decision:
    """Return what is asked of a book."""
    return Decision(check_request(job_request(seconds)), at, NEWEST, None, (), None)


def test_the_oldest_free_blocks_are_taken() -> None:
    fill_ledger("anna")
    assert reserve(30)[1] == [1000, 1001, 1002]
    assert reserve(12)[1] == [1003]
    assert free() == pytest.approx(240 - 48)


def test_released_blocks_are_taken_first() -> None:
    fill_ledger("anna")
    first, _ = reserve(12)
    reserve(12)
    allowance().undo_allowance_reservation(first)
    assert reserve(24)[1] == [1000, 1002]


def test_a_released_reservation_is_not_found() -> None:
    assert issubclass(ReservationReleased, ReservationNotFound)


def test_a_hold_lapses_by_itself_at_its_instant() -> None:
    fill_ledger("anna", executors=1)
    with time_machine.travel(dt.datetime.now(dt.UTC), tick=False) as clock:
        held, blocks = reserve(120)
        clock.shift(220 - 0.000001)
        with pytest.raises(NotEnoughAllowanceException):
            free()
        clock.shift(0.000001)
        assert free() == 120
        assert reserve(120)[1] == blocks
        expired = Reservation.objects.get(pk=held)
        assert (expired.state, expired.ended_at) == ("expired", expired.expires_at)


def test_a_lapsed_job_keeps_no_executor_busy() -> None:
    fill_ledger("anna", executors=1)
    with time_machine.travel(dt.datetime.now(dt.UTC), tick=False) as clock:
        routing().pick(job_request(12))
        with pytest.raises(AllMinersBusy, match="0 of 1 miners: 1 busy"):
            routing().pick(job_request(12))
        clock.shift(112)
        routing().pick(job_request(12))


def test_a_finished_job_keeps_no_executor_busy() -> None:
    fill_ledger("anna", executors=1)
    request = job_request(12)
    routing().pick(request)
    now = dt.datetime.now(dt.UTC)
    receipt = JobFinished.model_validate(
        {"job_uuid": request.uuid, "miner_hotkey": "anna", "validator_hotkey": "v", "timestamp": now}
        | {"time_started": now, "time_took_us": 1}
    )
    receipts().record(receipt)
    routing().pick(job_request(12))


def test_a_drop_voids_what_is_held() -> None:
    fill_ledger("anna", executors=3)
    held, _ = reserve(30)
    axons = {"anna": {"address": "10.0.0.1", "ip_version": 4, "port": 1}}
    allowance().record_manifests(block=NEWEST - 5, axons=axons, executors={"anna": {CLASS: 2}})
    assert free() == 5 * 12
    allowance().undo_allowance_reservation(held)
    assert free() == 5 * 12


def test_who_left_has_nothing_to_reserve() -> None:
    fill_ledger("anna")
    allowance().record_block(
        number=NEWEST + 1, timestamp=dt.datetime.now(dt.UTC), stake_share=0.5, hotkeys=["somebody-else"]
    )
    with pytest.raises(CannotReserveAllowanceException, match="anna has 0 s"):
        reserve()


def test_the_database_refuses_an_end_without_a_time() -> None:
    fill_ledger("anna")
    held, _ = reserve()
    with pytest.raises(IntegrityError), transaction.atomic():
        Reservation.objects.filter(pk=held).update(state="spent")
    with pytest.raises(IntegrityError), transaction.atomic():
        Reservation.objects.filter(pk=held).update(state="gone", ended_at=dt.datetime.now(dt.UTC))


def test_reads_compute_expiry_before_anything_swept() -> None:
    fill_ledger("anna")
    now = dt.datetime.now(dt.UTC)
    with time_machine.travel(now, tick=False):
        held, _ = reserve(30)
    row = Reservation.objects.get(pk=held)
    assert state.state_at(row, row.expires_at - dt.timedelta(microseconds=1)) == "held"
    assert state.state_at(row, row.expires_at) == "expired"
    assert row.state == "held"


def test_a_refusal_under_the_lock_leaves_lapsed_blocks_free() -> None:
    """A expired hold is tidied by a pick that is then refused: the row and the balance must both say so."""
    fill_ledger("anna", executors=1)
    now = dt.datetime.now(dt.UTC)
    live = LiveBook(pinned=now + dt.timedelta(seconds=200))
    with time_machine.travel(now, tick=False):
        held, blocks = reserve(12)
    candidate = gather(live.read(CLASS, now), {})[0]
    allowance().undo_allowance_reservation(reserve(12)[0])
    receipts().record(
        JobStarted.model_validate(
            {"job_uuid": job_request().uuid, "miner_hotkey": "anna", "validator_hotkey": "v", "ttl": 600}
            | {"executor_class": CLASS, "timestamp": now}
        )
    )
    _, verdict = live.reserve([candidate], question(12, now), state.window(None), wait=True) or (None, None)
    assert isinstance(verdict, Verdict)
    assert Reservation.objects.get(pk=held).state == "expired"
    assert free() == 20 * 6
    assert blocks == [1000, 1001]


def test_the_clock_is_read_under_the_lock() -> None:
    """A job that was spent and started while a pick waited for the lock keeps its executor busy."""
    fill_ledger("anna", executors=1)
    early = dt.datetime.now(dt.UTC)
    live = LiveBook()
    candidate = gather(live.read(CLASS, early), {})[0]
    other = job_request(12)
    route = routing().pick(other)
    started = {"job_uuid": other.uuid, "miner_hotkey": "anna", "validator_hotkey": "v", "executor_class": CLASS}
    receipts().record(JobStarted.model_validate(started | {"timestamp": dt.datetime.now(dt.UTC), "ttl": 60}))
    allowance().spend_allowance(route.allowance_reservation_id or 0)
    _, verdict = live.reserve([candidate], question(12, early), state.window(None), wait=True) or (None, None)
    assert isinstance(verdict, Verdict)
    assert verdict.gate is Gate.EXECUTORS


@pytest.fixture
def job_that_starts_unheld(monkeypatch: pytest.MonkeyPatch) -> dict[str, dt.datetime]:
    """Let a job whose hold has expired start at anna right after each reading; the account's version can't tell."""
    begun: dict[str, dt.datetime] = {}

    def observe_and_start(*args: Any) -> Observed:
        observed = observe(*args)
        job, now = job_request().uuid, dt.datetime.now(dt.UTC)
        started = {"job_uuid": job, "miner_hotkey": "anna", "validator_hotkey": "v", "executor_class": CLASS}
        receipts().record(JobStarted.model_validate(started | {"timestamp": now, "ttl": 60}))
        begun[job] = now
        return observed

    monkeypatch.setattr(book, "observe", observe_and_start)
    return begun


def test_a_reservation_is_made_as_of_the_moment_that_decided_it(job_that_starts_unheld: dict[str, dt.datetime]) -> None:
    """Otherwise two jobs would be ongoing on one executor at the moment at which it is said to be made."""
    fill_ledger("anna", executors=1)
    routing().pick(job_request(12))
    (started,) = job_that_starts_unheld.values()
    assert Reservation.objects.get().created_at < started


@pytest.mark.usefixtures("job_that_starts_unheld")
def test_what_was_read_too_long_ago_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite may have kept a pick waiting for its only lock, without a word."""
    monkeypatch.setattr(book, "READING_LASTS", -1.0)
    fill_ledger("anna", executors=1)
    with pytest.raises(AllMinersBusy):
        routing().pick(job_request(12))
    assert not Reservation.objects.exists()


def test_a_pick_is_refused_inside_a_transaction_of_the_caller() -> None:
    fill_ledger("anna")
    with transaction.atomic(), pytest.raises(RuntimeError, match="durable"):
        routing().pick(job_request())


def test_the_ledger_is_clean_after_the_newest_block_moved_on() -> None:
    """Balances forget what lies far behind the newest block; the check must agree on how far."""
    fill_ledger("anna", blocks=30)
    routing().pick(job_request())
    for number in (FIRST_BLOCK + 1100, FIRST_BLOCK + 1101):
        allowance().record_block(number=number, timestamp=dt.datetime.now(dt.UTC), stake_share=0.5)
    allowance().record_block(number=FIRST_BLOCK + 1102, timestamp=dt.datetime.now(dt.UTC), stake_share=1.0)
    with pytest.raises(NotEnoughAllowanceException):
        routing().pick(job_request())


def test_counts_are_remembered_for_blocks_that_are_recorded_after_the_manifests() -> None:
    """A follower may be far behind with the blocks when it records manifests: they must not make it forget."""
    fill_ledger("anna")
    axons = {"anna": {"address": "10.0.0.1", "ip_version": 4, "port": 9000}}
    allowance().record_manifests(block=FIRST_BLOCK + 5000, axons=axons, executors={"anna": {CLASS: 3}})
    assert free() == 20 * 2 * 6


def test_a_dry_run_of_a_past_moment_counts_the_jobs_of_that_moment() -> None:
    """As a pick whose clock is pinned to it does."""
    fill_ledger("anna", executors=1)
    now = dt.datetime.now(dt.UTC)
    then = now - dt.timedelta(seconds=60)
    started = {"job_uuid": uuid4(), "miner_hotkey": "anna", "validator_hotkey": "v", "ttl": 600}
    receipts().record(JobStarted.model_validate({**started, "executor_class": CLASS, "timestamp": now}))
    for at, routed in ((then, True), (now, False)):
        assert bool(decide(job_request(12), DryBook(), now=at).route) == routed
    assert routing().pick(job_request(12), now=then).miner.hotkey_ss58 == "anna"
