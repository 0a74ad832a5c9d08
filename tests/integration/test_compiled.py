"""Each statement that is compiled once runs as the QuerySet that it was made from, on this database."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from allowance import reservations
from allowance.models import Account, Reservation
from allowance.plumbing.compiled import Compiled, parameter, stored_values
from allowance.plumbing.union import Row
from allowance.reading import ACCOUNT, HELD, SNAPSHOT
from routing import routing
from routing.decision import book, in_force, reading
from routing.log import records
from routing.models import DecisionRecord
from tests.factories import job_request
from tests.ledgers import CLASS
from tests.rows import hold

pytestmark = [pytest.mark.usefixtures("ledger_clean_at_the_end"), pytest.mark.miners("anna", "bert")]


def kinds(statement: Compiled, **values: Any) -> set[int]:
    """Return the kinds of the rows of a reading."""
    rows = statement.fetch(executor_class=CLASS, **in_force.names(), **values)
    return {Row(*row).kind for row in rows}


def test_readings_return_what_is_there_and_what_is_new() -> None:
    hold()
    everything = {ACCOUNT, HELD, SNAPSHOT}
    assert kinds(reading.WHOLE, at=timezone.now()) == everything
    assert kinds(reading.CHANGES, since=0) >= {SNAPSHOT}
    assert kinds(reading.CHANGES, since=2**62) == {SNAPSHOT}


def test_a_balance_is_stored_at_the_version_that_was_read_and_at_no_other() -> None:
    account = Account.objects.select_related("miner").get(miner="anna")
    read = Account(pk=account.pk, version=account.version)
    assert reservations.store(account, account.balance)
    assert not reservations.store(read, account.balance)
    assert Account.objects.get(miner="anna").version == account.version


def test_a_reservation_whose_id_is_taken_is_not_inserted() -> None:
    held, _ = hold()
    taken = Reservation.objects.get(pk=held)
    assert not reservations.insert(taken)
    assert Reservation.objects.count() == 1


def test_the_first_of_equals_is_the_first_that_has_not_changed() -> None:
    accounts = [*Account.objects.order_by("pk")]
    asked = [accounts[1], accounts[0], *[accounts[0]] * (book.AT_ONCE - 2)]
    pks = {f"pk_{i}": account.pk for i, account in enumerate(asked)}
    for versions, first in (
        ([a.version for a in asked], accounts[1]),
        ([0, *[a.version for a in asked[1:]]], accounts[0]),
    ):
        numbered = {f"version_{i}": version for i, version in enumerate(versions)}
        with transaction.atomic():
            assert book.FIRST_OF_EQUALS.fetch(**pks, **numbered) == [(first.pk,)]


def test_a_record_has_the_values_of_its_decision() -> None:
    routing().pick(job_request(12))
    record = DecisionRecord.objects.get()
    records.INSERT.execute(**stored_values(record))
    copy = DecisionRecord.objects.latest("pk")
    for field in DecisionRecord._meta.concrete_fields:
        assert field.primary_key or getattr(copy, field.attname) == getattr(record, field.attname)


def test_a_condition_can_t_be_none_and_a_value_of_the_wrong_type_is_refused() -> None:
    statement = Compiled(lambda: Account.objects.filter(version=parameter(Account, "version")).values_list("pk"))
    with pytest.raises(TypeError, match="version can't be None"):
        statement.fetch(version=None)
    with pytest.raises(KeyError):
        statement.fetch()
    created = Compiled(
        lambda: Reservation.objects.filter(created_at__gt=parameter(Reservation, "created_at")).values_list("pk")
    )
    assert created.fetch(created_at=timezone.now() + dt.timedelta(days=1)) == []
