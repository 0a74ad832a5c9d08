"""Reservation ids are drawn by lot, and an id that is taken is drawn again."""

from __future__ import annotations

import datetime as dt

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from allowance import allowance, reservations
from allowance.models import Account, Reservation
from allowance.types import RESERVATION_IDS
from routing import routing
from tests.factories import CLASS, FIRST_BLOCK, draw, fill_ledger, job_request

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger_clean_at_the_end")]


@pytest.fixture(autouse=True)
def ledger(transactional_db: None) -> None:
    fill_ledger("anna", "bert")


def reserve(miner: str = "anna") -> tuple[int, list[int]]:
    return allowance().reserve_allowance(
        miner=miner, executor_class=CLASS, allowance_seconds=12, job_start_block=FIRST_BLOCK + 20
    )


def test_ids_are_drawn_and_fit_in_53_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    draw(monkeypatch, 0, RESERVATION_IDS - 1, 1)
    assert [reserve()[0], reserve()[0]] == [RESERVATION_IDS - 1, 1]
    assert 0 < reserve()[0] < RESERVATION_IDS
    assert RESERVATION_IDS == 2**53


def test_an_id_that_another_reservation_has_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, _ = reserve("bert")
    draw(monkeypatch, taken, taken, 17)
    assert reserve("anna")[0] == 17
    assert dict(Reservation.objects.values_list("pk", "account__miner")) == {taken: "bert", 17: "anna"}


def test_a_pick_draws_again_too(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, _ = reserve("bert")
    draw(monkeypatch, taken, 18)
    assert routing().pick(job_request(12)).allowance_reservation_id == 18


def test_an_id_means_one_job_after_a_backup_is_put_back() -> None:
    lost, _ = reserve()
    with transaction.atomic():  # a failover that loses the newest transactions
        later = [reserve()[0] for _ in range(5)]
        transaction.set_rollback(True)
    again = [reserve()[0] for _ in range(5)]
    assert not {lost, *later} & set(again)


@pytest.mark.parametrize("pk", [0, -1, RESERVATION_IDS])
def test_the_database_refuses_other_ids(pk: int) -> None:
    now = timezone.now()
    held = {"account": Account.objects.get(miner="anna"), "blocks": [FIRST_BLOCK], "created_at": now}
    with pytest.raises(IntegrityError), transaction.atomic():
        Reservation.objects.create(pk=pk, expires_at=now + dt.timedelta(seconds=1), **held)


def test_a_journal_does_not_take_the_id_of_another_account() -> None:
    taken, _ = reserve("bert")
    now = timezone.now()
    old = Reservation(pk=taken, blocks=[FIRST_BLOCK], created_at=now, expires_at=now + dt.timedelta(seconds=9))
    with pytest.raises(ValueError, match="means something else here"):
        reservations.restore(old, miner="anna", executor_class=CLASS)
    assert Reservation.objects.count() == 1
