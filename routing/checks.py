"""System checks for settings and databases with which the router does not work."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from django import db
from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.loader import MigrationLoader
from django.db.models import Model

from allowance.interface import follow_settings, missing_library, validation
from allowance.plumbing.checks import check
from allowance.plumbing.database import alias, database
from routing.access import signatures
from routing.conf import SETTINGS, conf
from routing.decision import fixed
from routing.dynamic import CONSTANCE_SETTINGS, DATABASE_BACKEND
from routing.upkeep.fetching import check_location
from routing.watch.findings import own_limits
from routing.watch.measures import MEASURES

APPS = ("allowance", "router_receipts", "routing")
VENDORS = ("postgresql", "sqlite")
ISOLATION = "read committed"


@check("routing.E001", 'Add "transaction_mode": "IMMEDIATE" to its OPTIONS.', Tags.database)
def check_transaction_mode(**_kwargs: Any) -> Iterator[str]:
    """Require IMMEDIATE transactions in SQLite. Without them writers fail instead of waiting."""
    for name, options in _sqlite():
        if str(options.get("transaction_mode", "")).upper() != "IMMEDIATE":
            yield f"SQLite database {name!r} does not begin its transactions with BEGIN IMMEDIATE."


@check("routing.E002", 'Add "init_command": "PRAGMA journal_mode=WAL;" to its OPTIONS.', Tags.database)
def check_journal_mode(**_kwargs: Any) -> Iterator[str]:
    """Require write-ahead logging in SQLite. Without it writers fail instead of waiting."""
    for name, options in _sqlite():
        if "journal_mode=wal" not in str(options.get("init_command", "")).lower().replace(" ", ""):
            yield f"SQLite database {name!r} does not use write-ahead logging."


@check("routing.E003", "Call routing.dynamic.install(globals()) at the end of the settings. It adds what is missing.")
def check_dynamic_settings(**_kwargs: Any) -> Iterable[str]:
    """Require the keys of the dynamic settings in CONSTANCE_CONFIG."""
    config = getattr(settings, "CONSTANCE_CONFIG", {})
    return [f"CONSTANCE_CONFIG lacks {key}." for key in CONSTANCE_SETTINGS if key not in config]


@check("routing.E004", "Set DEBUG_MINER_KEY to the hotkey of the miner that gets every job, or leave it empty.")
def check_debug_key(**_kwargs: Any) -> Iterator[str]:
    """Require a debug key that can be a hotkey."""
    if key := conf.DEBUG_MINER_KEY:
        try:
            validation.hotkey(key)
        except ValueError as error:
            yield f"DEBUG_MINER_KEY: {error}"


@register()
def check_fixed_miners(**_kwargs: Any) -> list[CheckMessage]:
    """Require valid addresses of the fixed miners. Warn if an address can't be reached."""
    errors: list[CheckMessage] = []
    key = conf.DEBUG_MINER_KEY
    for prefix in ("DEBUG_MINER", "TRUSTED_MINER") if key else ("TRUSTED_MINER",):
        try:
            miner = fixed.fixed_miner(prefix, str(key))
        except ImproperlyConfigured as error:
            hint = f"Set {prefix}_ADDRESS to an IP address and {prefix}_PORT to 1 to 65535."
            errors.append(Error(f"{prefix}: {error}", hint=hint, id="routing.E005"))
        else:
            errors += [_unreachable(prefix, miner.endpoint)] if miner and not miner.is_reachable else []
    return errors


@register(Tags.database)
def check_recorded_debug_miner(databases: Collection[str] | None = None, **_kwargs: Any) -> list[CheckMessage]:
    """Warn if the settings have no address for the debug miner and the chain has no reachable one."""
    key = conf.DEBUG_MINER_KEY
    try:
        if not key or not _is_asked(databases) or fixed.fixed_miner("DEBUG_MINER", key):
            return []
        miner = fixed.recorded_miner(key)
    except (ImproperlyConfigured, db.Error):  # check_fixed_miners reports the first, the next query the second
        return []
    if miner and miner.is_reachable:
        return []
    return [_unreachable("DEBUG_MINER", f"{miner.endpoint} on the chain" if miner else "no address on the chain")]


@register(deploy=True)
def check_trusted_miner(**_kwargs: Any) -> list[CheckMessage]:
    """Warn if the trusted miner has no address. Sites without trusted jobs can silence this warning."""
    if conf.TRUSTED_MINER_ADDRESS or conf.TRUSTED_MINER_PORT:
        return []
    return [_unreachable("TRUSTED_MINER", "no address")]


def _unreachable(prefix: str, where: str) -> CheckMessage:
    return Warning(
        f"{prefix} has {where}: every job for it will raise ImproperlyConfigured.",
        hint=fixed.ADVICE.format(prefix=prefix),
        id="routing.W001",
    )


@register()
def check_settings(**_kwargs: Any) -> list[CheckMessage]:
    """Require numeric settings to be within their bounds."""
    return [
        Error(
            f"{name} is {value!r:.80}, not {setting.bounds}.",
            hint=f"{setting.help} Remove the setting to use the default, {setting.default}.",
            id="routing.E006",
        )
        for name, setting in SETTINGS.items()
        if not setting.is_good(value := getattr(settings, name, setting.default))
    ]


@check(
    "routing.E007",
    'Remove "pool" from its OPTIONS and set CONN_MAX_AGE=None: idle threads would use up the pool.',
    Tags.database,
)
def check_pool(**_kwargs: Any) -> Iterator[str]:
    """Reject connection pools. Each thread keeps a connection, so idle threads would occupy the pool's slots."""
    connection = _database()
    if connection and _options(connection).get("pool"):
        yield f"Database {connection.alias!r} has a connection pool."


@register()
def check_signatures(**_kwargs: Any) -> list[CheckMessage]:
    """Require keys that can verify a signature, and the library that verifies it."""
    errors: list[CheckMessage] = []
    try:
        for key in sorted(validation.hotkeys(conf.ROUTING_FACILITATOR_PUBLIC_KEYS or (), "It")):
            signatures.public_key(key)
    except ValueError as error:
        hint = "Set ROUTING_FACILITATOR_PUBLIC_KEYS to the ss58 addresses that sign jobs, or leave it empty."
        errors.append(Error(f"ROUTING_FACILITATOR_PUBLIC_KEYS: {error}", hint=hint, id="routing.E009"))
    except ImportError as error:
        hint = "Run: pip install 'miner-router[signatures]'. Or leave ROUTING_FACILITATOR_PUBLIC_KEYS empty."
        errors.append(
            Error(
                f"ROUTING_FACILITATOR_PUBLIC_KEYS is set, but the router can't verify signatures: {error}.",
                hint=hint,
                id="routing.E009",
            )
        )
    return errors


@check(
    "routing.E026",
    "Use up to 40 letters, digits, dots, hyphens and underscores, or remove the setting to use the default.",
)
def check_redis_prefix(**_kwargs: Any) -> Iterator[str]:
    """Require a prefix that is valid in the name of a channel layer's group."""
    prefix = conf.ROUTING_REDIS_PREFIX
    if not isinstance(prefix, str) or not re.fullmatch(r"[a-zA-Z0-9._-]{0,40}", prefix):
        yield f"ROUTING_REDIS_PREFIX is {prefix!r:.80}, which is not a valid prefix."


@check(
    "routing.E012",
    'Write it as {"refusals": [25, 50]}: the name of a measure, the value above which it is a warning, and the value '
    "above which it is critical.",
)
def check_status_limits(**_kwargs: Any) -> Iterator[str]:
    """Require limits that name known measures and are valid pairs of numbers."""
    try:
        own_limits(MEASURES)
    except ImproperlyConfigured as error:
        yield str(error)


@check("routing.E027", "Or set RECEIPTS_FROM_MINERS to 0: then the router does not know the jobs of other validators.")
def check_receipts(**_kwargs: Any) -> Iterator[str]:
    """Require the library that reads the receipts of miners, if this site has a follower of a chain."""
    follows = follow_settings.VALIDATOR_HOTKEY and follow_settings.CHAIN_SOURCE != "journal"
    if follows and conf.RECEIPTS_FROM_MINERS and (missing := missing_library("receipts")):
        yield f"RECEIPTS_FROM_MINERS is 1, which {missing}"


@check("routing.E020", "Use PostgreSQL, or SQLite for a trial.", Tags.database)
def check_vendor(**_kwargs: Any) -> Iterator[str]:
    """Require PostgreSQL or SQLite: the apps use SQL that other databases do not support."""
    connection = _database()
    if connection and connection.vendor not in VENDORS:
        yield f"Database {connection.alias!r} is {connection.display_name}, which the router does not support."


@check(
    "routing.E021",
    "Remove isolation_level from its OPTIONS, and leave default_transaction_isolation at the server's default.",
    Tags.database,
)
def check_isolation(databases: Collection[str] | None = None, **_kwargs: Any) -> Iterator[str]:
    """Require READ COMMITTED.

    At higher levels PostgreSQL aborts a transaction that waited for a row that another one changed, as picks do.
    """
    connection = _database()
    if connection is None or connection.vendor != "postgresql":
        return
    from django.db.backends.postgresql.psycopg_any import IsolationLevel  # noqa: PLC0415 (SQLite needs no psycopg)

    level, name = _options(connection).get("isolation_level"), ISOLATION
    if level is not None:
        name = IsolationLevel(level).name.lower().replace("_", " ")
    elif _is_asked(databases):
        with connection.cursor() as cursor:  # the ORM selects from tables only
            cursor.execute("SHOW default_transaction_isolation")
            (name,) = cursor.fetchone()
    if name != ISOLATION:
        found = f"Database {connection.alias!r} has the isolation level {name}, not {ISOLATION}."
        yield f"{found} Simultaneous picks would fail."


@check("routing.E022", "Set USE_TZ = True. The router compares times that have time zones.")
def check_time_zones(**_kwargs: Any) -> Iterator[str]:
    """Require USE_TZ: the router compares times with time zones."""
    if not settings.USE_TZ:
        yield "USE_TZ is off, so every pick would fail."


@check(
    "routing.E023",
    "Change DATABASE_ROUTERS: db_for_read and db_for_write must return one alias for the apps "
    f"{', '.join(APPS)} and, if it keeps its settings in a table, constance. allow_migrate must not refuse them there. "
    "Do not read them from a replica, because it has older data.",
)
def check_routers(**_kwargs: Any) -> Iterator[str]:
    """Require DATABASE_ROUTERS to keep all that a pick reads and writes in one database, for reads too."""
    ours, together = alias(), [*models(), *_models_of_settings()]
    if ours not in connections:
        yield f"DATABASE_ROUTERS send the router's models to {ours!r}, which is not in DATABASES."
        return
    elsewhere: dict[str, list[str]] = {}
    for model in together:
        for other in {router.db_for_read(model), router.db_for_write(model)} - {ours}:
            elsewhere.setdefault(other, []).append(model._meta.label)
    for other, labels in elsewhere.items():
        yield f"DATABASE_ROUTERS send {', '.join(labels)} to {other!r}, but the ledger to {ours!r}."
    if refused := [model._meta.label for model in together if not router.allow_migrate_model(ours, model)]:
        yield f"DATABASE_ROUTERS don't let {', '.join(refused)} migrate in {ours!r}."


@check("routing.E040", "Set it to the path of a file or to a URL of http or https, or leave it empty.")
def check_document(**_kwargs: Any) -> Iterator[str]:
    """Require a document with dynamic settings that can be read, if there is one."""
    try:
        check_location(str(conf.ROUTING_DYNAMIC_FROM))
    except ValueError as error:
        yield f"ROUTING_DYNAMIC_FROM: {error}"


@check("routing.E024", 'Set CONSTANCE_BACKEND = "constance.backends.database.DatabaseBackend".')
def check_constance_backend(**_kwargs: Any) -> Iterator[str]:
    """Require dynamic settings that all processes share."""
    if getattr(settings, "CONSTANCE_BACKEND", None) == "constance.backends.memory.MemoryBackend":
        yield "Constance keeps the dynamic settings in memory, so each process would have its own until it ends."


@check(
    "routing.E025",
    "Another program created the table, or another version of these apps. Give the router its own database. "
    "The commands export_journal and replay_journal copy a history into it.",
    Tags.database,
)
def check_tables(databases: Collection[str] | None = None, **_kwargs: Any) -> Iterator[str]:
    """Compare the tables with the state that the applied migrations produce.

    This check connects to the database, so only `migrate` and `check --database ALIAS` run it.
    """
    connection = _database()
    if connection and _is_asked(databases) and connection.vendor in VENDORS:
        yield from _differences(connection)


def models() -> Iterator[type[Model]]:
    """Yield the models of the three apps."""
    for app in APPS:
        yield from apps.get_app_config(app).get_models(include_auto_created=True)


def _models_of_settings() -> Iterator[type[Model]]:
    """Yield the model of the dynamic settings, if constance keeps them in a table: a pick reads it with the ledger."""
    if getattr(settings, "CONSTANCE_BACKEND", None) == DATABASE_BACKEND and apps.is_installed("constance"):
        yield apps.get_model("constance", "Constance")


def _database() -> BaseDatabaseWrapper | None:
    """Return the connection to the apps' database, or None if DATABASES has no such alias: check_routers reports it."""
    return database() if alias() in connections else None


def _sqlite() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the alias and the OPTIONS of the apps' database, if it is an SQLite file."""
    connection = _database()
    if connection and connection.vendor == "sqlite":
        yield connection.alias, _options(connection)


def _is_asked(databases: Collection[str] | None) -> bool:
    """Return whether the checks may connect to the apps' database."""
    return alias() in (databases or ())


def _options(connection: BaseDatabaseWrapper) -> dict[str, Any]:
    options: dict[str, Any] = connection.settings_dict.get("OPTIONS") or {}
    return options


def _differences(connection: BaseDatabaseWrapper) -> Iterator[str]:
    """Yield how the tables differ from the applied migrations. A model that is not migrated yet must have no table."""
    loader = MigrationLoader(connection)
    applied = [key for key in loader.applied_migrations or () if key[0] in APPS and key in loader.graph.nodes]
    made = loader.project_state(applied, at_end=True).apps if applied else None
    migrated = made.get_models(include_auto_created=True) if made else ()
    due = {model._meta.db_table: model for model in migrated if model._meta.app_label in APPS}
    with connection.cursor() as cursor:
        there = connection.introspection.table_names(cursor)
        for model in models():
            table = model._meta.db_table
            if table in there and table not in due:
                yield f"Table {table} exists, but no migration of the router created it."
        for table, model in sorted(due.items()):
            if table not in there:
                yield f"Table {table} does not exist, but its migration is recorded as applied."
                continue
            columns: dict[str, Any] = {c.name: c for c in connection.introspection.get_table_description(cursor, table)}
            expected = {str(field.column) for field in model._meta.local_concrete_fields}
            if missing := sorted(expected - columns.keys()):
                yield f"Table {table} has no column {', '.join(missing)}."
            unknown = sorted(columns.keys() - expected)
            if needed := [name for name in unknown if not columns[name].null_ok and columns[name].default is None]:
                yield f"Table {table} requires a value in column {', '.join(needed)}, which the router does not write."
