"""Counting by the hour, in the database."""

from __future__ import annotations

from typing import Any

from django.db.models import DateTimeField, Func
from django.db.models.sql.compiler import SQLCompiler


class UtcHour(Func):
    """The beginning of the hour of a time, by UTC.

    Django's own TruncHour is a function in Python on SQLite, called for every row: it takes ten times as long.
    """

    arity = 1
    output_field = DateTimeField()

    def as_sqlite(self, compiler: SQLCompiler, connection: Any, **context: Any) -> tuple[str, Any]:
        return self.as_sql(compiler, connection, template="substr(%(expressions)s, 1, 13) || ':00:00'", **context)

    def as_postgresql(self, compiler: SQLCompiler, connection: Any, **context: Any) -> tuple[str, Any]:
        return self.as_sql(compiler, connection, template="date_trunc('hour', %(expressions)s, 'UTC')", **context)
