"""The statements of a reservation, in SQL: the ORM takes longer to write them than the database to run them.

They read and write rows of the models; who may, and holding which lock, is said in allowance.locks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from django.db import connection
from django.db.models import Model

from allowance.models import Account, Reservation, new_reservation_id, new_version
from allowance.state import ACCOUNT, RESERVATION

_COLUMNS = [field.attname for field in Account._meta.concrete_fields]
_SELECTED = ", ".join(_COLUMNS)
_CONVERTERS = [getattr(field, "from_db_value", None) for field in Account._meta.concrete_fields]
_STORED = [Account._meta.get_field(name) for name in ("base", "held", "spent", "version")]


def insertion(model: type[Model]) -> tuple[str, list[Any]]:
    """Return the statement that inserts a row of a model, and the fields that it takes: all but an automatic id."""
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

    In one statement where a database can: it is a round trip less, with the account locked. An id that another
    reservation has is drawn again.
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
        inserted = bool(cursor.rowcount)
    reservation._state.adding = not inserted
    return inserted


def _renewed(account: Account, base: int, held: int, spent: int) -> list[Any]:
    """Change an account, at a new version, and return the parameters that store it."""
    account.base, account.held, account.spent, account.version = base, held, spent, new_version()
    return [*prepared(account, _STORED), account.pk]


def prepared(row: Model, fields: Iterable[Any]) -> list[Any]:
    """Return the values of a row's fields as the database takes them."""
    return [field.get_db_prep_save(getattr(row, field.attname), connection) for field in fields]


@cache
def _lock(named_by: tuple[str, ...], *, skip_locked: bool) -> str:
    conditions = " AND ".join(_NAMED_BY[name] for name in named_by)
    return f"SELECT {_SELECTED} FROM {ACCOUNT} WHERE {conditions} {_for_update(skip_locked=skip_locked)}"  # noqa: S608


@cache
def _lock_first(named_by: tuple[str, ...], candidates: int, at_versions: bool, *, skip_locked: bool) -> str:
    """Return the statement for the first of so many. One is asked for without a join: that is quicker to plan."""
    conditions = [_NAMED_BY[name] for name in named_by]
    if candidates == 1:
        conditions += ["miner_id = %(miner_0)s", *(["version = %(version_0)s"] if at_versions else [])]
        asked, order = "", ""
    else:  # databases agree on what the columns of VALUES are called
        conditions += ["version = column3"] if at_versions else []
        places = ", ".join(f"({place}, %(miner_{place})s, %(version_{place})s)" for place in range(candidates))
        asked, order = f"JOIN (VALUES {places}) AS asked ON column2 = miner_id", "ORDER BY column1 LIMIT 1"
    lock = _for_update(skip_locked=skip_locked)
    return f"SELECT {_SELECTED} FROM {ACCOUNT} {asked} WHERE {' AND '.join(conditions)} {order} {lock}"  # noqa: S608


def _for_update(*, skip_locked: bool) -> str:
    if not connection.features.has_select_for_update:  # SQLite's transaction is its lock
        return ""
    return connection.ops.for_update_sql(skip_locked=skip_locked, of=(ACCOUNT,))
