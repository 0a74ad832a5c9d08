"""The checks of the database, each before anything is written in a database with which picks would fail."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from constance import settings as constance_settings
from constance.models import Constance
from django.db import DEFAULT_DB_ALIAS, connection, connections, models
from django.db.migrations.recorder import MigrationRecorder
from pytest_django import Settings

from allowance.models import Reservation
from receipts.models import JobStartedReceipt
from routing.decision import in_force
from routing.models import IncidentVersion
from tests.complaints import OURS, Sends, another_database, assert_only_complaint, complaints
from tests.unit.test_checks import POSTGRES, SQLITE

ROOT = Path(__file__).parents[2]


def test_a_database_without_the_statements_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections[DEFAULT_DB_ALIAS], "vendor", "mysql")
    monkeypatch.setattr(connections[DEFAULT_DB_ALIAS], "display_name", "MariaDB")
    assert_only_complaint("routing.E020", "'default'", "MariaDB")


def test_another_alias_may_be_any_database() -> None:
    with another_database({"ENGINE": "django.db.backends.mysql"}):
        assert complaints() == []


def test_the_database_of_our_models_is_looked_at_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    with another_database(POSTGRES, Sends("other")):
        monkeypatch.setattr(connections[DEFAULT_DB_ALIAS], "vendor", "mysql")
        assert complaints(databases=["default"]) == []
        monkeypatch.setitem(connections["other"].settings_dict, "OPTIONS", {"isolation_level": 4})
        assert_only_complaint("routing.E021", "'other'", "serializable")
        monkeypatch.setattr(connections["other"], "vendor", "oracle")
        assert_only_complaint("routing.E020", "'other'")
        assert "Use PostgreSQL" in str(complaints()[0].hint)


@pytest.mark.parametrize("level", [3, 4])
def test_an_isolation_that_fails_picks_is_refused(level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections[DEFAULT_DB_ALIAS], "vendor", "postgresql")
    options = connection.settings_dict["OPTIONS"]
    monkeypatch.setitem(options, "isolation_level", 2)
    assert complaints() == []
    monkeypatch.setitem(options, "isolation_level", level)
    assert_only_complaint("routing.E021", "'default'", {3: "repeatable read", 4: "serializable"}[level])


@pytest.mark.django_db
@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one isolation only")
def test_the_server_s_isolation_is_looked_at_where_a_database_is_named() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL default_transaction_isolation = 'serializable'")
    assert complaints() == []
    assert_only_complaint("routing.E021", "serializable", databases=["default"])


def test_times_without_a_zone_are_refused(settings: Settings) -> None:
    settings.USE_TZ = False
    assert_only_complaint("routing.E022", "USE_TZ")


class Elsewhere:
    def db_for_read(self, model: type[models.Model], **_hints: Any) -> str | None:
        return "replica" if model is Reservation else None

    def db_for_write(self, model: type[models.Model], **_hints: Any) -> str | None:
        return None


class Nowhere:
    def allow_migrate(self, db: str, app_label: str, **_hints: Any) -> bool:
        return app_label != "routing"


class Neighbour:
    def db_for_read(self, model: type[models.Model], **_hints: Any) -> str | None:
        return "legacy" if model._meta.app_label == "auth" else None

    db_for_write = db_for_read


WITHOUT_CONSTANCE = Sends("other", OURS - {"constance"})


@pytest.mark.parametrize(
    ("router", "mentioned"),
    [
        (Elsewhere(), ("allowance.Reservation to 'replica'", "the ledger to 'default'")),
        (Nowhere(), ("routing.MinerIncident", "migrate in 'default'")),
        (Sends("other", frozenset({"router_receipts"})), ("router_receipts.JobStartedReceipt", "'other'", "'default'")),
        (WITHOUT_CONSTANCE, ("constance.Constance to 'default'", "the ledger to 'other'")),
        (Sends("nowhere"), ("'nowhere'", "not in DATABASES")),
    ],
    ids=["replica", "not migrated", "one app", "constance", "no such database"],
)
def test_routers_that_tear_our_models_apart_are_refused(router: object, mentioned: tuple[str, ...]) -> None:
    with another_database(SQLITE, router):
        found = complaints()
        assert found
        assert {m.id for m in found} == {"routing.E023"}
        assert all(any(text in m.msg for m in found) for text in mentioned)
        for text in ("allow_migrate", "one alias", "replica", "router_receipts", "constance"):
            assert text in str(found[0].hint)


def test_routers_that_keep_our_models_together_are_fine(settings: Settings) -> None:
    for router in (Neighbour(), Sends("other")):
        with another_database(SQLITE, router):
            assert complaints() == []
    settings.CONSTANCE_BACKEND = "constance.backends.redisd.RedisBackend"
    with another_database(SQLITE, WITHOUT_CONSTANCE):
        assert complaints() == []


def test_a_pick_reads_the_table_of_the_settings_only_if_they_are_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [arm.model for arm in in_force.stored("a class")] == [Constance, IncidentVersion]
    monkeypatch.setattr(constance_settings, "BACKEND", "constance.backends.redisd.RedisBackend")
    assert [arm.model for arm in in_force.stored("a class")] == [IncidentVersion]


def test_dynamic_settings_of_one_process_are_refused(settings: Settings) -> None:
    settings.CONSTANCE_BACKEND = "constance.backends.memory.MemoryBackend"
    assert_only_complaint("routing.E024", "memory")


@pytest.mark.parametrize("backend", ["redisd.RedisBackend", "redisd.CachingRedisBackend", "database.DatabaseBackend"])
def test_dynamic_settings_that_processes_share_are_fine(backend: str, settings: Settings) -> None:
    settings.CONSTANCE_BACKEND = f"constance.backends.{backend}"
    assert complaints() == []


@pytest.fixture
def tables(transactional_db: None) -> Iterator[list[str]]:
    """Statements that undo what a test did to the tables, the last first."""
    undo: list[str] = []
    yield undo
    execute(*reversed(undo))


def execute(*statements: str) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


RECEIPTS, VERSIONS = JobStartedReceipt._meta.db_table, IncidentVersion._meta.db_table


@pytest.mark.usefixtures("tables")
def test_our_tables_are_fine() -> None:
    assert complaints(databases=["default"]) == []


def test_a_column_that_a_table_lacks_is_named(tables: list[str]) -> None:
    execute(f"ALTER TABLE {RECEIPTS} RENAME COLUMN ttl TO lifetime")
    tables.append(f"ALTER TABLE {RECEIPTS} RENAME COLUMN lifetime TO ttl")
    assert complaints() == []  # without a database's name nothing is asked of one
    lacks, demands = complaints(databases=["default"])
    assert (lacks.id, demands.id) == ("routing.E025", "routing.E025")
    assert f"{RECEIPTS} has no column ttl." in lacks.msg
    assert f"{RECEIPTS} requires a value in column lifetime" in demands.msg
    assert "its own database" in str(lacks.hint)


def test_a_column_more_that_needs_no_value_is_fine(tables: list[str]) -> None:
    execute(f"ALTER TABLE {RECEIPTS} ADD COLUMN note integer", f"ALTER TABLE {RECEIPTS} ADD COLUMN n integer DEFAULT 1")
    tables += [f"ALTER TABLE {RECEIPTS} DROP COLUMN {name}" for name in ("note", "n")]
    assert complaints(databases=["default"]) == []


def test_a_table_that_is_gone_is_named(tables: list[str]) -> None:
    execute(f"ALTER TABLE {VERSIONS} RENAME TO elsewhere")
    tables.append(f"ALTER TABLE elsewhere RENAME TO {VERSIONS}")
    assert_only_complaint("routing.E025", f"Table {VERSIONS} does not exist", databases=["default"])


@pytest.mark.usefixtures("tables")
def test_a_table_that_no_migration_of_ours_made_is_named() -> None:
    recorder = MigrationRecorder(connection)
    recorder.record_unapplied("router_receipts", "0001_initial")
    try:
        found = complaints(databases=["default"])
        assert {m.id for m in found} == {"routing.E025"}
        assert f"Table {RECEIPTS} exists, but no migration of the router created it." in [m.msg for m in found]
    finally:
        recorder.record_applied("router_receipts", "0001_initial")


@pytest.fixture
def empty(tmp_path: Path) -> dict[str, str]:
    """The environment of a site with a database of its own, in which nothing is yet."""
    file = tmp_path / "site.sqlite3"
    return {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", "DATABASE_URL": f"sqlite:///{file}"}


def manage(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "manage.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_a_database_is_fine_before_half_way_through_and_after_its_migrations(empty: dict[str, str]) -> None:
    for migrated in ([], ["routing", "0001"], ["routing"], []):
        if migrated:
            assert manage(empty, "migrate", "-v0", *migrated).returncode == 0
        assert manage(empty, "check", "--database", "default").returncode == 0


def tables_in(environment: dict[str, str]) -> list[str]:
    with closing(sqlite3.connect(environment["DATABASE_URL"].removeprefix("sqlite:///"))) as database:
        return [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]


def test_nothing_is_migrated_beside_a_foreign_table(empty: dict[str, str]) -> None:
    with closing(sqlite3.connect(empty["DATABASE_URL"].removeprefix("sqlite:///"))) as database:
        database.execute(f"CREATE TABLE {RECEIPTS} (id integer PRIMARY KEY, payload text NOT NULL)")
    finished = manage(empty, "migrate")
    assert finished.returncode == 1
    assert "routing.E025" in finished.stderr
    assert tables_in(empty) == [RECEIPTS]


def test_migrate_refuses_an_unfit_setting_before_it_writes(empty: dict[str, str]) -> None:
    finished = manage({**empty, "DJANGO_SETTINGS_MODULE": "tests.unfit_settings"}, "migrate")
    assert finished.returncode == 1
    assert "routing.E022" in finished.stderr
    assert tables_in(empty) == []
