"""Reservation ids are drawn by lot, and an id that is taken is drawn again."""

from __future__ import annotations

import datetime as dt

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from allowance import reservations
from allowance.models import Account, Reservation
from allowance.types import RESERVATION_IDS
from routing import routing
from tests.factories import draw, job_request
from tests.ledgers import CLASS, FIRST_BLOCK
from tests.rows import hold

pytestmark = [pytest.mark.usefixtures("ledger_clean_at_the_end"), pytest.mark.miners("anna", "bert")]


def test_ids_are_drawn_and_fit_in_53_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    draw(monkeypatch, 0, RESERVATION_IDS - 1, 1)
    assert [hold(seconds=12)[0], hold(seconds=12)[0]] == [RESERVATION_IDS - 1, 1]
    assert 0 < hold(seconds=12)[0] < RESERVATION_IDS
    assert RESERVATION_IDS == 2**53


def test_an_id_that_another_reservation_has_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, _ = hold("bert", 12)
    draw(monkeypatch, taken, taken, 17)
    assert hold("anna", 12)[0] == 17
    assert dict(Reservation.objects.values_list("pk", "account__miner")) == {taken: "bert", 17: "anna"}


def test_a_pick_draws_again_too(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, _ = hold("bert", 12)
    draw(monkeypatch, taken, 18)
    assert routing().pick(job_request(12)).allowance_reservation_id == 18


def test_an_id_means_one_job_after_a_backup_is_put_back() -> None:
    lost, _ = hold(seconds=12)
    with transaction.atomic():  # a failover that loses the newest transactions
        later = [hold(seconds=12)[0] for _ in range(5)]
        transaction.set_rollback(True)
    again = [hold(seconds=12)[0] for _ in range(5)]
    assert not {lost, *later} & set(again)


@pytest.mark.parametrize("pk", [0, -1, RESERVATION_IDS])
def test_the_database_refuses_other_ids(pk: int) -> None:
    now = timezone.now()
    held = {"account": Account.objects.get(miner="anna"), "blocks": [FIRST_BLOCK], "created_at": now}
    with pytest.raises(IntegrityError), transaction.atomic():
        Reservation.objects.create(pk=pk, expires_at=now + dt.timedelta(seconds=1), **held)


def test_a_journal_does_not_take_the_id_of_another_account() -> None:
    taken, _ = hold("bert", 12)
    now = timezone.now()
    old = Reservation(pk=taken, blocks=[FIRST_BLOCK], created_at=now, expires_at=now + dt.timedelta(seconds=9))
    with pytest.raises(ValueError, match="has another reservation with the id"):
        reservations.restore(old, miner="anna", executor_class=CLASS)
    assert Reservation.objects.count() == 1
