"""The life of a reservation: held, then spent, released or expired, once."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from time_machine import TimeMachineFixture

from allowance import allowance
from allowance.models import Reservation
from allowance.types import (
    CannotReserveAllowanceException,
    NotEnoughAllowanceException,
    ReservationNotFound,
    ReservationReleased,
)
from receipts.schemas import JobFinished, JobStarted
from routing import routing
from routing.decision import book
from routing.decision import reading as readings
from routing.decision.book import READINGS, DryBook, LiveBook
from routing.decision.model import Candidates, Decision, Gate
from routing.decision.pipeline import check_request, decide
from routing.decision.ranking import Ranking, rank
from routing.decision.reading import Seen
from routing.types import AllMinersBusy
from tests.clock import MINUTE, NOW, SECOND, TICK, noon
from tests.factories import job_request
from tests.ledgers import CLASS, FIRST_BLOCK, NEWEST
from tests.rows import declare, free, hold, mint, receive

pytestmark = [pytest.mark.usefixtures("ledger_clean_at_the_end"), noon, pytest.mark.miners("anna", executors=1)]


def question(seconds: int, at: dt.datetime) -> Decision:
    """Return what is asked of a book."""
    return Decision(check_request(job_request(seconds)), at, NEWEST, None, Candidates.of(), None)


@pytest.mark.miners("anna")
def test_the_oldest_free_blocks_are_taken() -> None:
    assert hold(seconds=30)[1] == [1000, 1001, 1002]
    assert hold(seconds=12)[1] == [1003]
    assert free()["anna"] == pytest.approx(240 - 48)


@pytest.mark.miners("anna")
def test_released_blocks_are_taken_first() -> None:
    first, _ = hold(seconds=12)
    hold(seconds=12)
    allowance().undo_allowance_reservation(first)
    assert hold(seconds=24)[1] == [1000, 1002]


def test_a_released_reservation_is_not_found() -> None:
    assert issubclass(ReservationReleased, ReservationNotFound)


def test_a_hold_lapses_by_itself_at_its_instant(time_machine: TimeMachineFixture) -> None:
    held, blocks = hold(seconds=120)
    time_machine.shift(220 - 0.000001)
    with pytest.raises(NotEnoughAllowanceException):
        free()["anna"]
    time_machine.shift(0.000001)
    assert free()["anna"] == 120
    assert hold(seconds=120)[1] == blocks
    expired = Reservation.objects.get(pk=held)
    assert (expired.state, expired.ended_at) == ("expired", expired.expires_at)


def test_a_lapsed_job_keeps_no_executor_busy(time_machine: TimeMachineFixture) -> None:
    routing().pick(job_request(12))
    with pytest.raises(AllMinersBusy, match="0 of 1 miners eligible: 1 busy"):
        routing().pick(job_request(12))
    time_machine.shift(112)
    routing().pick(job_request(12))


def test_a_finished_job_keeps_no_executor_busy() -> None:
    request = job_request(12)
    routing().pick(request)
    receive(JobFinished, request.uuid)
    routing().pick(job_request(12))


@pytest.mark.miners("anna", executors=3)
def test_a_drop_voids_what_is_held() -> None:
    held, _ = hold(seconds=30)
    declare({"anna": 2}, NEWEST - 5)
    assert free()["anna"] == 5 * 12
    allowance().undo_allowance_reservation(held)
    assert free()["anna"] == 5 * 12


@pytest.mark.miners("anna")
def test_who_left_has_nothing_to_reserve() -> None:
    mint(NEWEST + 1, hotkeys=["somebody-else"])
    with pytest.raises(CannotReserveAllowanceException, match="anna has 0 s"):
        hold()


def test_who_has_no_account_has_nothing_to_reserve() -> None:
    with pytest.raises(CannotReserveAllowanceException, match="nobody has 0 s"):
        hold("nobody")


@pytest.mark.miners("anna")
def test_the_database_refuses_an_end_without_a_time() -> None:
    held, _ = hold()
    with pytest.raises(IntegrityError), transaction.atomic():
        Reservation.objects.filter(pk=held).update(state="spent")
    with pytest.raises(IntegrityError), transaction.atomic():
        Reservation.objects.filter(pk=held).update(state="gone", ended_at=NOW)


@pytest.mark.miners("anna")
def test_reads_compute_expiry_before_anything_swept() -> None:
    held, _ = hold(seconds=30)
    row = Reservation.objects.get(pk=held)
    assert row.state_at(row.expires_at - TICK) == "held"
    assert row.state_at(row.expires_at) == "expired"
    assert row.state == "held"


def test_a_refusal_under_the_lock_leaves_lapsed_blocks_free(
    time_machine: TimeMachineFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pick that is refused stores nothing: the row and the balance must both say that the hold has expired."""
    monkeypatch.setattr(book, "SHORTEST_WAIT", math.inf)
    live = LiveBook(readings=READINGS)
    held, blocks = hold(seconds=12)
    ranking = rank(question(12, NOW), live.read(CLASS, NOW).state.board, {})
    allowance().undo_allowance_reservation(hold(seconds=12)[0])
    receive(JobStarted, ttl=600)
    live.now = NOW + 200 * SECOND
    assert isinstance(live.reserve(ranking, [0]), Ranking)
    assert Reservation.objects.get(pk=held).state_at(NOW + 200 * SECOND) == "expired"
    time_machine.move_to(NOW + 200 * SECOND)
    assert free()["anna"] == 20 * 6
    assert blocks == [1000, 1001]


def test_the_clock_is_read_under_the_lock(time_machine: TimeMachineFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that was spent and started while a pick waited for the lock keeps its executor busy."""
    monkeypatch.setattr(book, "SHORTEST_WAIT", math.inf)  # after a wait it would rank again
    live = LiveBook(readings=READINGS)
    ranking = rank(question(12, NOW), live.read(CLASS, None).state.board, {})
    time_machine.shift(1)
    other = job_request(12)
    route = routing().pick(other)
    receive(JobStarted, other.uuid)
    allowance().spend_allowance(route.allowance_reservation_id or 0)
    refused = live.reserve(ranking, ranking.equals())
    assert isinstance(refused, Ranking)
    assert refused.decision().counts == {Gate.EXECUTORS: 1}


@pytest.fixture
def job_that_starts_unheld(monkeypatch: pytest.MonkeyPatch, time_machine: TimeMachineFixture) -> dict[str, dt.datetime]:
    """Let a job whose hold has expired start at anna right after each reading; the account's version can't tell."""
    begun: dict[str, dt.datetime] = {}

    read = readings.read

    def read_and_start(*args: Any, **how: Any) -> Seen:
        seen = read(*args, **how)
        time_machine.shift(1)
        started = receive(JobStarted)
        begun[str(started.job_uuid)] = started.timestamp
        return seen

    monkeypatch.setattr(readings, "read", read_and_start)
    return begun


def test_a_reservation_is_made_as_of_the_moment_that_decided_it(job_that_starts_unheld: dict[str, dt.datetime]) -> None:
    """Otherwise two jobs would be ongoing on one executor at the moment at which it is said to be made."""
    routing().pick(job_request(12))
    (started,) = job_that_starts_unheld.values()
    assert Reservation.objects.get().created_at < started


@pytest.mark.usefixtures("job_that_starts_unheld")
def test_what_was_read_too_long_ago_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite may have kept a pick waiting for its only lock, without a word."""
    monkeypatch.setattr(book, "READING_LASTS", -1.0)
    with pytest.raises(AllMinersBusy):
        routing().pick(job_request(12))
    assert not Reservation.objects.exists()


@pytest.mark.miners("anna")
def test_a_pick_is_refused_inside_a_transaction_of_the_caller() -> None:
    with transaction.atomic(), pytest.raises(RuntimeError, match="durable"):
        routing().pick(job_request())


@pytest.mark.miners("anna", blocks=30)
def test_the_ledger_is_clean_after_the_newest_block_moved_on() -> None:
    """Balances forget what lies far behind the newest block; the check must agree on how far."""
    routing().pick(job_request())
    for number in (FIRST_BLOCK + 1100, FIRST_BLOCK + 1101):
        mint(number)
    mint(FIRST_BLOCK + 1102, share=1.0)
    with pytest.raises(NotEnoughAllowanceException):
        routing().pick(job_request())


@pytest.mark.miners("anna")
def test_counts_are_remembered_for_blocks_that_are_recorded_after_the_manifests() -> None:
    """A follower may be far behind with the blocks when it records manifests: they must not make it forget."""
    declare({"anna": 3}, FIRST_BLOCK + 5000)
    assert free()["anna"] == 20 * 2 * 6


def test_a_dry_run_of_a_past_moment_counts_the_jobs_of_that_moment() -> None:
    """As a pick whose clock is pinned to it does."""
    then = NOW - MINUTE
    receive(JobStarted, ttl=600)
    for at, routed in ((then, True), (NOW, False)):
        assert bool(decide(job_request(12), DryBook(), now=at).route) == routed
    assert routing().pick(job_request(12), now=then).miner.hotkey_ss58 == "anna"
