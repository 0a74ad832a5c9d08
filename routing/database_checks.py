"""System checks of the database that the three apps are in, and of the settings that decide how it is used."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register
from django.db import DEFAULT_DB_ALIAS, connection, router
from django.db.migrations.loader import MigrationLoader
from django.db.models import Model

APPS = ("allowance", "router_receipts", "routing")
VENDORS = ("postgresql", "sqlite")
ISOLATION = "read committed"


@register(Tags.database)
def check_vendor(**_kwargs: Any) -> list[CheckMessage]:
    """Insist on a database that has the statements of the apps."""
    if connection.vendor in VENDORS:
        return []
    hint = "Use PostgreSQL in DATABASES['default'], or SQLite to try things out."
    return [Error(f"The router can't work on {connection.display_name}.", hint=hint, id="routing.E020")]


@register(Tags.database)
def check_isolation(databases: Collection[str] | None = None, **_kwargs: Any) -> list[CheckMessage]:
    """Insist on READ COMMITTED: above it PostgreSQL ends transactions that wait for each other, as picks do."""
    if connection.vendor != "postgresql":
        return []
    from django.db.backends.postgresql.psycopg_any import IsolationLevel  # noqa: PLC0415 (SQLite needs no psycopg)

    level, name = connection.settings_dict["OPTIONS"].get("isolation_level"), ISOLATION
    if level is not None:
        name = IsolationLevel(level).name.lower().replace("_", " ")
    elif DEFAULT_DB_ALIAS in (databases or ()):
        with connection.cursor() as cursor:
            cursor.execute("SHOW default_transaction_isolation")
            (name,) = cursor.fetchone()
    if name == ISOLATION:
        return []
    hint = "Leave isolation_level out of its OPTIONS, and default_transaction_isolation at the server's default."
    found = f"Transactions of database {DEFAULT_DB_ALIAS!r} are {name}, not {ISOLATION}: picks that meet would fail."
    return [Error(found, hint=hint, id="routing.E021")]


@register()
def check_time_zones(**_kwargs: Any) -> list[CheckMessage]:
    """Insist on times with a zone."""
    if settings.USE_TZ:
        return []
    hint = "Set USE_TZ = True: the times of blocks, reservations and receipts are compared with their zone."
    return [Error("USE_TZ is off, and every pick would fail.", hint=hint, id="routing.E022")]


@register()
def check_routers(**_kwargs: Any) -> list[CheckMessage]:
    """Insist on the default database, until the apps ask DATABASE_ROUTERS where they are."""
    elsewhere = sorted(
        {
            alias
            for model in models()
            for alias in (router.db_for_read(model), router.db_for_write(model))
            if alias != DEFAULT_DB_ALIAS
        }
    )
    found = [f"DATABASE_ROUTERS send the router's models to {', '.join(map(repr, elsewhere))}."] if elsewhere else []
    if not all(router.allow_migrate_model(DEFAULT_DB_ALIAS, model) for model in models()):
        found.append(f"DATABASE_ROUTERS don't let the router's models migrate in {DEFAULT_DB_ALIAS!r}.")
    hint = (
        f"Until the router can work in another database, let your routers keep the apps {', '.join(APPS)} in "
        f"{DEFAULT_DB_ALIAS!r}, reads too: a replica is behind."
    )
    return [Error(sentence, hint=hint, id="routing.E023") for sentence in found]


@register()
def check_constance_backend(**_kwargs: Any) -> list[CheckMessage]:
    """Insist on dynamic settings that all processes share."""
    if getattr(settings, "CONSTANCE_BACKEND", None) != "constance.backends.memory.MemoryBackend":
        return []
    hint = 'Set CONSTANCE_BACKEND = "constance.backends.database.DatabaseBackend".'
    found = "Constance keeps the dynamic settings in memory: each process would have its own, until it ends."
    return [Error(found, hint=hint, id="routing.E024")]


@register(Tags.database)
def check_tables(databases: Collection[str] | None = None, **_kwargs: Any) -> list[CheckMessage]:
    """Compare the tables with what the migrations that were applied have made of them.

    This connects to the database, and so is done by `migrate` and `check --database default`.
    """
    if DEFAULT_DB_ALIAS not in (databases or ()) or connection.vendor not in VENDORS:
        return []
    hint = (
        "Another program made it, or another version of these apps. Give the router a database of its own; "
        "export_journal and replay_journal take a history along."
    )
    return [Error(sentence, hint=hint, id="routing.E025") for sentence in _differences()]


def models() -> Iterator[type[Model]]:
    """Yield the models of the three apps."""
    for app in APPS:
        yield from apps.get_app_config(app).get_models(include_auto_created=True)


def _differences() -> Iterator[str]:
    """Yield how the tables differ from the applied migrations. What is not migrated yet has no table."""
    loader = MigrationLoader(connection)
    applied = [key for key in loader.applied_migrations or () if key[0] in APPS and key in loader.graph.nodes]
    made = loader.project_state(applied, at_end=True).apps if applied else None
    due = {model._meta.db_table: model for app in APPS if made for model in _of(made, app)}
    with connection.cursor() as cursor:
        there = connection.introspection.table_names(cursor)
        for model in models():
            table = model._meta.db_table
            if table in there and table not in due:
                yield f"Table {table} exists, though no migration of ours has made it."
        for table, model in sorted(due.items()):
            if table not in there:
                yield f"Table {table} does not exist, though its migration is recorded as applied."
                continue
            columns: dict[str, Any] = {c.name: c for c in connection.introspection.get_table_description(cursor, table)}
            expected = {str(field.column) for field in model._meta.local_concrete_fields}
            if missing := sorted(expected - columns.keys()):
                yield f"Table {table} has no column {', '.join(missing)}."
            unknown = sorted(columns.keys() - expected)
            if needed := [name for name in unknown if not columns[name].null_ok and columns[name].default is None]:
                yield f"Table {table} demands a value in column {', '.join(needed)}, which the router doesn't know."


def _of(made: Any, app: str) -> Iterator[type[Model]]:
    if app in made.app_configs:
        yield from made.get_app_config(app).get_models(include_auto_created=True)
