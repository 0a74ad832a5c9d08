"""SQL for many rows at once. The ORM has one parameter for each value, and takes many times as long.

It reads and writes rows of the models. allowance.locks lists the locks that it requires.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from django.db.models import AutoField, Field, IntegerField, JSONField, Model
from django.db.models.expressions import RawSQL
from django.db.models.fields import NOT_PROVIDED

from allowance.plumbing.database import database


def upsert(model: type[Model], key: Sequence[str], fields: Sequence[str], values: Collection[Sequence[object]]) -> None:
    """Write the `key` and the `fields` of rows, old and new, in one statement.

    An old row keeps its other columns, except those that the database fills; a new row gets their defaults. All values
    are one JSON parameter.
    """
    if not values:
        return
    connection = database()
    quote, names = connection.ops.quote_name, [*key, *fields]
    columns = {column.name: column for column in model._meta.concrete_fields if not isinstance(column, AutoField)}
    quoted = {name: quote(str(column.column)) for name, column in columns.items()}
    filled = [name for name, column in columns.items() if column.db_default is not NOT_PROVIDED]
    others = [column for name, column in columns.items() if name not in names and name not in filled]
    selected = [_element(columns[name], place) for place, name in enumerate(names)] + ["%s" for _ in others]
    table, written = (
        quote(model._meta.db_table),
        ", ".join(quoted[name] for name in (*names, *(c.name for c in others))),
    )
    conflict = ", ".join(quoted[name] for name in key)
    changes = ", ".join(f"{quoted[name]} = EXCLUDED.{quoted[name]}" for name in (*fields, *filled))
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
    return database().vendor == "postgresql"
