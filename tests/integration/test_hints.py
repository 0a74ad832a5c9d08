"""When to ask again: a refusal says what is known of it."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest

from allowance import allowance
from allowance.models import Block
from receipts.models import JobStartedReceipt
from receipts.schemas import JobAccepted, JobFinished, JobStarted
from receipts.voiding import void_receipt
from routing import service
from routing.decision.in_force import InForce, make_policy
from routing.decision.model import Candidates, Decision, Gate, Verdict
from routing.sockets.hints import retry_after
from tests.clock import NOW, SECOND, noon
from tests.factories import job_request
from tests.rows import receive

pytestmark = [pytest.mark.django_db(transaction=True), noon, pytest.mark.miners("anna", executors=1)]


def pick(seconds: int, now: dt.datetime = NOW) -> Decision:
    return service.pick(job_request(seconds), now=now)


def hint(seconds: int, now: dt.datetime = NOW) -> float | None:
    """Return the hint of a refusal."""
    decision = pick(seconds, now)
    assert decision.route is None
    return retry_after(decision, now)


def newest() -> Block:
    return Block.objects.order_by("-number")[0]


@pytest.mark.miners("anna", "bert", executors=1)
def test_busy_miners_are_asked_again_when_the_next_hold_lapses() -> None:
    pick(60)
    pick(30)
    assert hint(12, NOW + 10 * SECOND) == 120


@pytest.mark.miners("anna", "bert", executors=1)
def test_busy_miners_are_asked_again_when_the_next_job_must_be_over() -> None:
    receive(JobStarted, miner="bert", ttl=90, at=NOW - 50 * SECOND)
    pick(12)
    assert hint(12) == 40


def test_a_job_ends_when_both_its_reservation_and_its_receipts_have_ended() -> None:
    job = pick(30).job
    assert hint(12) == 130
    receive(JobStarted, job.uuid)
    assert hint(12) == 130
    receive(JobAccepted, job.uuid, ttl=200)
    assert hint(12) == 200


def test_a_voided_receipt_makes_nobody_wait() -> None:
    pick(30)
    receive(JobStarted, miner="anna", ttl=600)
    assert hint(12) == 600  # two jobs on one executor: both must be over
    void_receipt(JobStartedReceipt.objects.get(), by="boss", reason="it never was", now=NOW)
    assert hint(12) == 130


@pytest.mark.miners("anna", executors=2)
def test_of_several_jobs_the_first_that_ends_frees_an_executor() -> None:
    receive(JobStarted, miner="anna", ttl=90)
    receive(JobStarted, miner="anna", ttl=600)
    assert hint(12) == 90


def test_jobs_that_are_over_make_nobody_wait() -> None:
    over = receive(JobStarted, ttl=90, at=NOW - 85 * SECOND)
    receive(JobFinished, over.job_uuid)
    pick(12)
    assert hint(12) == 112


def test_allowance_that_is_held_is_asked_for_again_when_it_lapses() -> None:
    pick(100)
    assert hint(60) == 200


def test_allowance_that_nobody_has_is_asked_for_again_with_the_next_block() -> None:
    assert hint(600, newest().timestamp + 5 * SECOND) == 7


@pytest.mark.parametrize(("age", "wait"), [(0, 12), (9, 3), (11.9, 3), (12, 12), (40, 8), (48, 12), (500, 4), (-5, 5)])
def test_blocks_that_are_recorded_late_are_awaited_by_their_cadence(age: float, wait: float) -> None:
    assert hint(600, newest().timestamp + age * SECOND) == wait


@pytest.mark.miners("anna", executors=0)
def test_nothing_is_promised_where_nobody_has_an_executor() -> None:
    assert hint(30) is None


@pytest.mark.miners
def test_nothing_is_promised_without_a_block() -> None:
    assert hint(30) is None


def test_nothing_is_promised_for_collateral(monkeypatch: pytest.MonkeyPatch) -> None:
    allowance().record_collateral(hotkey="anna", wei=1)
    monkeypatch.setattr("routing.decision.in_force.parse", lambda _rows: InForce(make_policy(2, 24.0), None))
    assert hint(30) is None


def test_a_lock_may_be_gone_soon() -> None:
    routed = pick(30)
    locked = Candidates.of([replace(c, verdict=Verdict(Gate.LOCK, 0, 1)) for c in routed.candidates])
    decision = replace(routed, route=None, candidates=locked)
    assert retry_after(decision, NOW) == 1
