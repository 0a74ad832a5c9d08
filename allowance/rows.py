"""SQL statements for reservations and for many rows at once. For these the ORM takes longer than the database.

They read and write rows of the models. allowance.locks lists the locks that they require.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from django.db import connection
from django.db.models import AutoField, Field, IntegerField, JSONField, Model
from django.db.models.expressions import RawSQL

from allowance.models import Account, Reservation, new_reservation_id, new_version
from allowance.state import ACCOUNT, RESERVATION

_COLUMNS = [field.attname for field in Account._meta.concrete_fields]
_SELECTED = ", ".join(_COLUMNS)
_CONVERTERS = [getattr(field, "from_db_value", None) for field in Account._meta.concrete_fields]
_STORED = [Account._meta.get_field(name) for name in ("base", "held", "spent", "version")]


def insertion(model: type[Model]) -> tuple[str, list[Any]]:
    """Return the statement that inserts a row of a model, and the fields of its parameters: all but an automatic id."""
    fields = [field for field in model._meta.concrete_fields if field is not model._meta.auto_field]
    columns, values = ", ".join(field.attname for field in fields), ", ".join("%s" for _ in fields)
    return f"INSERT INTO {connection.ops.quote_name(model._meta.db_table)} ({columns}) VALUES ({values}) ", fields  # noqa: S608


_STORE = f"UPDATE {ACCOUNT} SET base = %s, held = %s, spent = %s, version = %s WHERE id = %s"  # noqa: S608
_INSERT, _INSERTED = insertion(Reservation)
_INSERT += "ON CONFLICT (id) DO NOTHING"
_HOLD = f"WITH stored AS ({_STORE}) {_INSERT}"

_NAMED_BY = {
    "pk": "id = %(pk)s",
    "miner": "miner_id = %(miner)s",
    "executor_class": "executor_class = %(executor_class)s",
    "reservation": f"id = (SELECT account_id FROM {RESERVATION} WHERE id = %(reservation)s)",  # noqa: S608
}


def lock_row(
    which: Mapping[str, Any], first_of: Mapping[str, int | None] | None = None, *, skip_locked: bool
) -> Account | None:
    """Lock the account that `which` names, or the first of several, and return it; see `locks.lock_account`."""
    if first_of:
        sql = _lock_first(tuple(which), len(first_of), None not in first_of.values(), skip_locked=skip_locked)
    else:
        sql = _lock(tuple(which), skip_locked=skip_locked)
    names = dict(which)
    for place, (miner, version) in enumerate((first_of or {}).items()):
        names |= {f"miner_{place}": miner, f"version_{place}": version}
    with connection.cursor() as cursor:
        cursor.execute(sql, names)
        row = cursor.fetchone()
    if row is None:
        return None
    values = [convert(v, None, connection) if convert else v for convert, v in zip(_CONVERTERS, row, strict=True)]
    return Account.from_db(connection.alias, _COLUMNS, values)


def store(account: Account, *, base: int, held: int, spent: int) -> None:
    """Store which blocks of a locked account are held and spent, and give it a new version."""
    with connection.cursor() as cursor:
        cursor.execute(_STORE, _renewed(account, base, held, spent))


def hold(account: Account, *, base: int, held: int, spent: int, reservation: Reservation) -> None:
    """Store which blocks of a locked account are held and spent, and insert the reservation that holds some of them.

    On PostgreSQL this is one statement, which saves a round trip while the account is locked. If another reservation
    has the id, a new one is drawn.
    """
    if connection.vendor == "postgresql":
        stored = _renewed(account, base, held, spent)
        inserted = _insert(reservation, _HOLD, stored)
    else:
        store(account, base=base, held=held, spent=spent)
        inserted = insert(reservation)
    while not inserted:
        reservation.pk = new_reservation_id()
        inserted = insert(reservation)


def insert(reservation: Reservation) -> bool:
    """Insert a reservation. Returns False, and inserts nothing, if another one has its id."""
    return _insert(reservation, _INSERT)


def _insert(reservation: Reservation, sql: str, before: Iterable[Any] = ()) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(sql, [*before, *prepared(reservation, _INSERTED)])
        inserted: bool = cursor.rowcount == 1
    reservation._state.adding = not inserted
    return inserted


def upsert(model: type[Model], key: Sequence[str], fields: Sequence[str], values: Collection[Sequence[object]]) -> None:
    """Write the `key` and the `fields` of rows, old and new, in one statement.

    An old row keeps its other columns; a new row gets their defaults. All values are one JSON parameter: the ORM, with
    one parameter for each value, takes many times as long.
    """
    if not values:
        return
    quote, names = connection.ops.quote_name, [*key, *fields]
    columns = {column.name: column for column in model._meta.concrete_fields if not isinstance(column, AutoField)}
    quoted = {name: quote(str(column.column)) for name, column in columns.items()}
    others = [column for name, column in columns.items() if name not in names]
    selected = [_element(columns[name], place) for place, name in enumerate(names)] + ["%s" for _ in others]
    table, written = (
        quote(model._meta.db_table),
        ", ".join(quoted[name] for name in (*names, *(c.name for c in others))),
    )
    conflict = ", ".join(quoted[name] for name in key)
    changes = ", ".join(f"{quoted[name]} = EXCLUDED.{quoted[name]}" for name in fields)
    source = "jsonb_array_elements(CAST(%s AS jsonb)) AS r(value)" if _is_postgresql() else "json_each(%s) AS r"
    insert = f"INSERT INTO {table} ({written}) SELECT {', '.join(selected)} FROM {source}"  # noqa: S608 (no value)
    defaults = [column.get_db_prep_save(column.get_default(), connection) for column in others]
    with connection.cursor() as cursor:
        cursor.execute(
            f"{insert} WHERE TRUE ON CONFLICT ({conflict}) DO UPDATE SET {changes}",
            [*defaults, json.dumps([*values])],
        )


def _element(column: Field[Any, Any], place: int) -> str:
    """Return the SQL of a column's value: the element at `place` of the JSON array `r.value`."""
    if not _is_postgresql():
        return f"json_extract(r.value, '$[{place}]')"
    if isinstance(column, JSONField):
        return f"r.value -> {place}"
    text = f"r.value ->> {place}"
    return f"CAST({text} AS bigint)" if isinstance(column, IntegerField) else text


def among(values: Iterable[str]) -> RawSQL:
    """Return a subquery of many texts for a filter with `__in`. It takes one parameter."""
    rows = (
        "SELECT jsonb_array_elements_text(CAST(%s AS jsonb))" if _is_postgresql() else "SELECT value FROM json_each(%s)"
    )
    return RawSQL(rows, [json.dumps([*values])])  # noqa: S611 (the values are a parameter)


def _is_postgresql() -> bool:
    return connection.vendor == "postgresql"


def _renewed(account: Account, base: int, held: int, spent: int) -> list[Any]:
    """Change an account, give it a new version, and return the parameters of `_STORE`."""
    account.base, account.held, account.spent, account.version = base, held, spent, new_version()
    return [*prepared(account, _STORED), account.pk]


def prepared(row: Model, fields: Iterable[Any]) -> list[Any]:
    """Return the values of a row's fields, prepared for the database."""
    return [field.get_db_prep_save(getattr(row, field.attname), connection) for field in fields]


@cache
def _lock(named_by: tuple[str, ...], *, skip_locked: bool) -> str:
    conditions = " AND ".join(_NAMED_BY[name] for name in named_by)
    return f"SELECT {_SELECTED} FROM {ACCOUNT} WHERE {conditions} {_for_update(skip_locked=skip_locked)}"  # noqa: S608


@cache
def _lock_first(named_by: tuple[str, ...], candidates: int, at_versions: bool, *, skip_locked: bool) -> str:
    """Return the statement that locks the first of several candidates. One needs no join, which is faster to plan."""
    conditions = [_NAMED_BY[name] for name in named_by]
    if candidates == 1:
        conditions += ["miner_id = %(miner_0)s", *(["version = %(version_0)s"] if at_versions else [])]
        asked, order = "", ""
    else:  # all databases name the columns of VALUES column1, column2, …
        conditions += ["version = column3"] if at_versions else []
        places = ", ".join(f"({place}, %(miner_{place})s, %(version_{place})s)" for place in range(candidates))
        asked, order = f"JOIN (VALUES {places}) AS asked ON column2 = miner_id", "ORDER BY column1 LIMIT 1"
    lock = _for_update(skip_locked=skip_locked)
    return f"SELECT {_SELECTED} FROM {ACCOUNT} {asked} WHERE {' AND '.join(conditions)} {order} {lock}"  # noqa: S608


def _for_update(*, skip_locked: bool) -> str:
    if not connection.features.has_select_for_update:  # on SQLite the transaction is the lock
        return ""
    return connection.ops.for_update_sql(skip_locked=skip_locked, of=(ACCOUNT,))
