"""Times cut to the hour or the day by the database itself: Django's own calls Python for every row on SQLite."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import DateTimeField, Func
from django.db.models.sql.compiler import SQLCompiler


class UtcHour(Func):
    """The beginning of the hour, in UTC, that a time is in."""

    arity = 1
    output_field: ClassVar[DateTimeField[Any, Any]] = DateTimeField()
    unit = "hour"
    on_sqlite = "substr(%(expressions)s, 1, 13) || ':00:00'"  # which keeps times as text, in UTC

    def as_postgresql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **extra: Any) -> Any:
        return self.as_sql(compiler, connection, template=f"date_trunc('{self.unit}', %(expressions)s, 'UTC')", **extra)

    def as_sqlite(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **extra: Any) -> Any:
        return self.as_sql(compiler, connection, template=self.on_sqlite, **extra)


class UtcDay(UtcHour):
    """The beginning of the day, in UTC, that a time is in."""

    unit = "day"
    on_sqlite = "substr(%(expressions)s, 1, 10) || ' 00:00:00'"
