"""The three statements of a reservation, in SQL: the ORM takes longer to write them than the database to run them.

They read and write rows of the models; who may, and holding which lock, is said in allowance.locks.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from django.db import connection

from allowance.models import Account, Reservation, new_version
from allowance.state import ACCOUNT, RESERVATION

_ACCOUNT = Account._meta.concrete_fields
_STORED = [field for field in _ACCOUNT if field.name in {"base", "held", "spent", "version"}]
_INSERTED = [field for field in Reservation._meta.concrete_fields if not field.primary_key]

_NAMED_BY = {
    "pk": "id = %(pk)s",
    "miner": "miner_id = %(miner)s",
    "executor_class": "executor_class = %(executor_class)s",
    "reservation": f"id = (SELECT account_id FROM {RESERVATION} WHERE id = %(reservation)s)",  # noqa: S608
}


def lock_row(which: Mapping[str, Any], *, skip_locked: bool) -> Account | None:
    """Lock the account that `which` names and return it; see `allowance.locks.lock_account`."""
    with connection.cursor() as cursor:
        cursor.execute(_lock(tuple(which), skip_locked=skip_locked), which)
        row = cursor.fetchone()
    if row is None:
        return None
    columns = zip(_ACCOUNT, row, strict=True)
    values = [f.from_db_value(v, None, connection) if hasattr(f, "from_db_value") else v for f, v in columns]
    return Account.from_db(connection.alias, [field.attname for field in _ACCOUNT], values)


def store(account: Account, *, base: int, held: int, spent: int) -> None:
    """Store which blocks of a locked account are held and spent, and give it a new version."""
    account.base, account.held, account.spent, account.version = base, held, spent, new_version()
    values = [field.get_db_prep_save(getattr(account, field.attname), connection) for field in _STORED]
    assignments = ", ".join(f"{field.attname} = %s" for field in _STORED)
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {ACCOUNT} SET {assignments} WHERE id = %s", [*values, account.pk])  # noqa: S608


def insert(reservation: Reservation) -> None:
    """Insert a new reservation and give it its id."""
    values = [field.get_db_prep_save(getattr(reservation, field.attname), connection) for field in _INSERTED]
    columns, places = ", ".join(field.attname for field in _INSERTED), ", ".join(["%s"] * len(values))
    returned = connection.features.can_return_columns_from_insert
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {RESERVATION} ({columns}) VALUES ({places}){' RETURNING id' if returned else ''}",  # noqa: S608
            values,
        )
        reservation.pk = cursor.fetchone()[0] if returned else cursor.lastrowid
    reservation._state.adding = False


@cache
def _lock(named_by: tuple[str, ...], *, skip_locked: bool) -> str:
    columns = ", ".join(field.attname for field in _ACCOUNT)
    conditions = " AND ".join(_NAMED_BY[name] for name in named_by)
    lock = connection.ops.for_update_sql(skip_locked=skip_locked) if connection.features.has_select_for_update else ""
    return f"SELECT {columns} FROM {ACCOUNT} WHERE {conditions} {lock}"  # noqa: S608
