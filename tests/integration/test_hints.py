"""When to ask again: a refusal says what is known of it."""

from __future__ import annotations

import datetime as dt
from uuid import UUID, uuid4

import pytest
from django.utils import timezone

from allowance import allowance
from allowance.models import Block
from receipts import receipts
from receipts.models import JobStartedReceipt
from receipts.schemas import JobAccepted, JobFinished, JobStarted
from receipts.voiding import void_receipt
from routing import service
from routing.decision.in_force import InForce, make_policy
from routing.decision.model import Decision, Gate, Verdict
from routing.sockets.hints import retry_after
from tests.factories import CLASS, fill_ledger, job_request

pytestmark = pytest.mark.django_db(transaction=True)


def decided(seconds: int, now: dt.datetime) -> Decision:
    return service.pick(job_request(seconds), now=now)


def hint(seconds: int, now: dt.datetime) -> float | None:
    """Return the hint of a refusal."""
    decision = decided(seconds, now)
    assert decision.route is None
    return retry_after(decision, now)


def started(miner: str, now: dt.datetime, *, ttl: int, ago: float = 0) -> JobStarted:
    return JobStarted(
        job_uuid=uuid4(),
        miner_hotkey=miner,
        validator_hotkey="validator",
        executor_class=CLASS,
        timestamp=now - dt.timedelta(seconds=ago),
        ttl=ttl,
    )


def newest() -> Block:
    return Block.objects.order_by("-number")[0]


def test_busy_miners_are_asked_again_when_the_next_hold_lapses() -> None:
    fill_ledger("anna", "bert", executors=1)
    now = timezone.now()
    decided(60, now)
    decided(30, now)
    assert hint(12, now + dt.timedelta(seconds=10)) == 120


def test_busy_miners_are_asked_again_when_the_next_job_must_be_over() -> None:
    fill_ledger("anna", "bert", executors=1)
    now = timezone.now()
    receipts().record(started("bert", now, ttl=90, ago=50))
    decided(12, now)
    assert hint(12, now) == 40


def test_a_job_ends_when_both_its_reservation_and_its_receipts_have_ended() -> None:
    fill_ledger("anna", executors=1)
    now = timezone.now()
    job = decided(30, now).job
    assert hint(12, now) == 130
    receipts().record(started("anna", now, ttl=60).model_copy(update={"job_uuid": UUID(job.uuid)}))
    assert hint(12, now) == 130
    accepted = {"job_uuid": job.uuid, "miner_hotkey": "anna", "validator_hotkey": "validator", "timestamp": now}
    receipts().record(JobAccepted(**accepted, time_accepted=now, ttl=200))
    assert hint(12, now) == 200


def test_a_voided_receipt_makes_nobody_wait() -> None:
    fill_ledger("anna", executors=1)
    now = timezone.now()
    decided(30, now)
    receipts().record(started("anna", now, ttl=600))
    assert hint(12, now) == 600  # two jobs on one executor: both must be over
    void_receipt(JobStartedReceipt.objects.get(), by="boss", reason="it never was", now=now)
    assert hint(12, now) == 130


def test_of_several_jobs_the_first_that_ends_frees_an_executor() -> None:
    fill_ledger("anna", executors=2)
    now = timezone.now()
    receipts().record(started("anna", now, ttl=90))
    receipts().record(started("anna", now, ttl=600))
    assert hint(12, now) == 90


def test_jobs_that_are_over_make_nobody_wait() -> None:
    fill_ledger("anna", executors=1)
    now = timezone.now()
    over = started("anna", now, ttl=90, ago=85)
    receipts().record(over)
    receipts().record(
        JobFinished(
            job_uuid=over.job_uuid,
            miner_hotkey="anna",
            validator_hotkey="validator",
            timestamp=now,
            time_started=now,
            time_took_us=1,
        )
    )
    decided(12, now)
    assert hint(12, now) == 112


def test_allowance_that_is_held_is_asked_for_again_when_it_lapses() -> None:
    fill_ledger("anna", executors=1)
    now = timezone.now()
    decided(100, now)
    assert hint(60, now) == 200


def test_allowance_that_nobody_has_is_asked_for_again_with_the_next_block() -> None:
    fill_ledger("anna", executors=1)
    now = newest().timestamp + dt.timedelta(seconds=5)
    assert hint(600, now) == 7


def test_a_block_that_is_late_may_come_any_moment() -> None:
    fill_ledger("anna", executors=1)
    assert hint(600, newest().timestamp + dt.timedelta(seconds=500)) == 0.1


def test_nothing_is_promised_where_nobody_has_an_executor() -> None:
    fill_ledger("anna", executors=0)
    assert hint(30, timezone.now()) is None


def test_nothing_is_promised_without_a_block() -> None:
    assert hint(30, timezone.now()) is None


def test_nothing_is_promised_for_collateral(monkeypatch: pytest.MonkeyPatch) -> None:
    fill_ledger("anna")
    allowance().record_collateral(hotkey="anna", wei=1)
    monkeypatch.setattr("routing.decision.in_force.parse", lambda _rows: InForce(make_policy(2, 24.0), None))
    assert hint(30, timezone.now()) is None


def test_a_lock_may_be_gone_soon() -> None:
    fill_ledger("anna")
    now = timezone.now()
    decision = decided(30, now)
    decision.candidates[0].verdict = Verdict(Gate.LOCK, 0, 1)
    assert retry_after(decision, now) == 1
