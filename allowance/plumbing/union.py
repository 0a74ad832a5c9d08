"""One statement of several QuerySets, so that all their rows come from one snapshot of the database.

The QuerySets of a union need equal columns. These are general ones: each arm fills those that it has a use for.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, NamedTuple

from django.db.models import (
    BigIntegerField,
    BinaryField,
    DateTimeField,
    F,
    Field,
    IntegerField,
    QuerySet,
    TextField,
    Value,
)
from django.db.models.functions import Cast


class Row(NamedTuple):
    """A row of a union. `kind` is the arm that it comes from. Each arm defines what the other columns mean."""

    kind: int
    pk: int | None
    key: str | None
    job: str | None
    number: int | None
    low: int | None
    base: int | None
    amount: int | None
    at: dt.datetime | None
    until: dt.datetime | None
    over: dt.datetime | None
    other_key: str | None
    other_at: dt.datetime | None
    other_until: dt.datetime | None
    held: int | None
    spent: int | None
    text: str | None


_TEXT, _NUMBER, _TIME, _BYTES = TextField(), BigIntegerField(), DateTimeField(), BinaryField()
_FIELDS: dict[str, Field[Any, Any]] = {
    "pk": _NUMBER,
    "key": _TEXT,
    "job": _TEXT,
    **dict.fromkeys(("number", "low", "base", "amount"), _NUMBER),
    **dict.fromkeys(("at", "until", "over"), _TIME),
    "other_key": _TEXT,
    **dict.fromkeys(("other_at", "other_until"), _TIME),
    **dict.fromkeys(("held", "spent"), _BYTES),
    "text": _TEXT,
}


def arm(kind: int, rows: QuerySet[Any, Any], **columns: Any) -> QuerySet[Any, Any]:
    """Return one SELECT of a union. `columns` maps names of `Row` to fields or expressions. Others are NULL."""
    filled = [_column(columns.get(name), field) for name, field in _FIELDS.items()]
    return rows.order_by().values_list(Value(kind, output_field=IntegerField()), *filled)


def _column(value: Any, field: Field[Any, Any]) -> Any:
    if value is None or isinstance(field, TextField):  # cast no times: SQLite would truncate them
        return Cast(Value(None) if value is None else value, field)
    return F(value) if isinstance(value, str) else value


def union(first: QuerySet[Any, Any], *others: QuerySet[Any, Any]) -> QuerySet[Any, Any]:
    """Return the QuerySet of all rows of all arms."""
    return first.union(*others, all=True)
