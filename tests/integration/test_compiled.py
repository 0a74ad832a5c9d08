"""Each statement that is compiled once runs as the QuerySet that it was made from, on this database."""

from __future__ import annotations

import datetime as dt
import sys
from pkgutil import walk_packages
from typing import Any
from uuid import UUID

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models import Q
from django.utils import timezone

import allowance as allowance_app
import receipts as receipts_app
import routing as routing_app
from allowance import allowance, reservations
from allowance import reading as ledger_reading
from allowance.locks import ledger_transaction
from allowance.models import Account, Reservation
from allowance.plumbing.compiled import Compiled, parameter, stored_values
from allowance.plumbing.union import Row
from allowance.reading import ACCOUNT, HELD, NEWEST_BLOCKS, SNAPSHOT
from allowance.types import NotEnoughAllowanceException
from routing import routing
from routing.decision import book, in_force, reading
from routing.log import records
from routing.models import DecisionRecord, RoutedJob
from routing.sockets import jobs
from tests.factories import job_request
from tests.jobs import routed
from tests.ledgers import CLASS, NEWEST
from tests.queries import postgresql, queries
from tests.rows import hold, report

pytestmark = [pytest.mark.usefixtures("ledger_clean_at_the_end"), pytest.mark.miners("anna", "bert")]

PREPARE = "prepare_threshold"


@pytest.fixture(autouse=True, params=["prepared", "not prepared"])
def preparing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    options = connection.settings_dict["OPTIONS"]
    if request.param == "not prepared":
        monkeypatch.delitem(options, PREPARE, raising=False)
    elif connection.vendor == "sqlite":
        pytest.skip("SQLite prepares every statement")


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


def test_every_compiled_statement_is_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement that is compiled otherwise by another version of Django must not be noticed by a user first."""
    compiled = {
        f"{module.name}.{name}": found
        for package in (allowance_app, receipts_app, routing_app)
        for module in walk_packages(package.__path__, f"{package.__name__}.")
        for name, found in vars(sys.modules.get(module.name, sys)).items()
        if isinstance(found, Compiled)
    }
    statement, ran = Compiled.statement, set[int]()

    def noted(self: Compiled, connection: Any) -> Any:
        ran.add(id(self))
        return statement(self, connection)

    monkeypatch.setattr(Compiled, "statement", noted)
    reservations._together.cache_clear()
    reading.forget()
    report("somebody-else")  # anna and bert stay equals
    held = routed(job_request(12)).route.allowance_reservation_id
    kinds(reading.CHANGES, since=0)  # SQLite has no numbers of transactions
    hold, tries = reservations.hold, []

    def held_at_the_second_try(*what: Any, **how: Any) -> bool:
        tries.append(what)
        return len(tries) > 1 and hold(*what, **how)

    monkeypatch.setattr(reservations, "hold", held_at_the_second_try)
    routing().pick(job_request(12))
    with pytest.raises(NotEnoughAllowanceException):
        routing().pick(job_request(3600))
    allowance().spend_allowance(held or 0)
    assert [name for name, statement in compiled.items() if id(statement) not in ran] == []


def test_a_balance_is_stored_at_the_version_that_was_read_and_at_no_other() -> None:
    account = Account.objects.select_related("miner").get(miner="anna")
    read = Account(pk=account.pk, version=account.version)
    assert reservations.store(account, account.balance)
    assert not reservations.store(read, account.balance)
    assert Account.objects.get(miner="anna").version == account.version


def test_a_reservation_whose_id_is_taken_is_not_stored() -> None:
    held, _ = hold()
    taken = Reservation.objects.select_related("account__miner").get(pk=held)
    with transaction.atomic():
        assert not reservations.hold(taken, taken.account.balance, newest=NEWEST)
    assert Reservation.objects.count() == 1
    assert Account.objects.get(pk=taken.account_id).version == taken.account.version


def test_a_row_that_can_t_be_inserted_leaves_the_account_as_it_was() -> None:
    account = Account.objects.select_related("miner").get(miner="anna")
    new = reservations.draft(account, [NEWEST], seconds=1, job_uuid=None, now=timezone.now())
    with pytest.raises(IntegrityError), ledger_transaction():
        reservations.hold(new, account.balance, RoutedJob(uuid=UUID(int=1)), newest=NEWEST)
    assert not Reservation.objects.exists()
    assert Account.objects.get(miner="anna").version == account.version


def test_rows_are_stored_with_the_values_that_they_have() -> None:
    account = Account.objects.select_related("miner").get(miner="anna")
    new = reservations.draft(account, [NEWEST], seconds=1, job_uuid=None, now=timezone.now())
    row = RoutedJob(
        uuid=UUID(int=3), owner="token:anna", executor_class=CLASS, seconds=12, miner="anna", reservation=new,
        tried=["bert"], claim=7, routed_at=timezone.now(),
    )  # fmt: skip
    with ledger_transaction():
        assert reservations.hold(new, account.balance, row, newest=NEWEST)
    for made, stored in ((new, Reservation.objects.get()), (row, RoutedJob.objects.get())):
        for field in made._meta.concrete_fields:
            assert field.db_default or getattr(stored, field.attname) == getattr(made, field.attname)


@postgresql
def test_an_update_and_its_rows_are_one_statement() -> None:
    account = Account.objects.select_related("miner").get(miner="anna")
    new = reservations.draft(account, [NEWEST], seconds=1, job_uuid=None, now=timezone.now())
    (sql,) = queries(lambda: reservations.hold(new, account.balance, newest=NEWEST))
    assert sql.startswith("WITH")
    assert Reservation.objects.get() == new


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


def test_what_is_known_of_a_job_and_its_row() -> None:
    uuid = UUID(job_request(12).uuid)
    assert jobs.KNOWN.fetch(job_uuid=uuid) == []
    held, _ = hold(job=uuid)
    assert jobs.KNOWN.fetch(job_uuid=uuid) == [("evidence",)]
    RoutedJob.objects.create(
        uuid=uuid, executor_class=CLASS, seconds=12, miner="anna", reservation_id=held, routed_at=timezone.now()
    )
    assert {what for (what,) in jobs.KNOWN.fetch(job_uuid=uuid)} == {"evidence", "routed"}


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite prepares every statement")
def test_the_server_prepares_these_statements_and_no_others() -> None:
    connection.close()  # what is prepared is the connection's
    for _ in range(3):
        routing().pick(job_request(12))
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement FROM pg_prepared_statements")
        found = [text for (text,) in cursor.fetchall()]
    chain = [statement.statement(connection).numbered for statement in (ledger_reading.MINERS, NEWEST_BLOCKS)]
    changes = reading.CHANGES.statement(connection).numbered
    holding = [text for text in found if text.startswith("WITH part_0 AS (UPDATE")]
    assert sorted(found) == (
        sorted([*chain, changes, *holding[:1]]) if PREPARE in connection.settings_dict["OPTIONS"] else []
    )  # each only once: the types of its parameters do not depend on their values


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


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has no such setting")
def test_a_connection_that_prepares_plans_once() -> None:
    connection.close()
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('plan_cache_mode'), current_setting('jit')")
        found = cursor.fetchone()
    assert (found == ("force_generic_plan", "off")) is (PREPARE in connection.settings_dict["OPTIONS"])
    connection.close()


def test_a_parameter_is_sent_once_however_often_it_stands_there() -> None:
    version = parameter(Account, "version")
    twice = Compiled(
        lambda: Account.objects.filter(Q(version=version) | Q(pk__gt=0, version=version)).values_list("pk")
    )
    if connection.vendor == "postgresql":
        statement = twice.statement(connection)
        assert (len(statement.params), len(statement.each)) == (2, 1)
        assert statement.numbered.count("$1") == 2
    assert twice.fetch(version=Account.objects.get(miner="anna").version) == [(Account.objects.get(miner="anna").pk,)]


@postgresql
def test_a_constant_with_a_percent_sign_is_no_parameter() -> None:
    odd = Compiled(
        lambda: Account.objects.filter(miner="50%s", version=parameter(Account, "version")).values_list("pk")
    )
    assert odd.statement(connection).numbered.count("$") == 1
    assert "50%s" in odd.statement(connection).numbered
    assert odd.fetch(version=1) == []
