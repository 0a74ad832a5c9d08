"""The numbers of transactions, by which a reader finds what was written since it read last.

PostgreSQL numbers the transactions that write. A row that carries the number of its last writer is new to a reader if
the number is not below that of the oldest transaction that was running when the reader read last. This is exact
whatever the order of commits. SQLite has no such numbers: there all of them are 0, so every row is always new.
"""

from __future__ import annotations

from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import BigIntegerField, DateTimeField, Func, Model


class Number(Func):
    """A number of a transaction, as PostgreSQL's function `function` returns it; 0 on other databases."""

    output_field = BigIntegerField()
    template = "CAST(CAST(%(function)s AS text) AS bigint)"

    def __init__(self, **extra: Any) -> None:
        super().__init__(**extra)

    def as_sql(self, compiler: Any, connection: BaseDatabaseWrapper, *form: Any, **context: Any) -> Any:
        if connection.vendor != "postgresql":
            return "0", ()
        return super().as_sql(compiler, connection, *form, **context)


class ThisTransaction(Number):
    """The number of the current transaction."""

    function = "pg_current_xact_id()"


class OldestRunning(Number):
    """The number of the oldest transaction that is running, or of the next one if none is."""

    function = "pg_snapshot_xmin(pg_current_snapshot())"


class NextTransaction(Number):
    """A number above those of all transactions whose rows the statement sees, the current one included."""

    template = (
        "GREATEST(CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint), "
        "CAST(CAST(pg_current_xact_id_if_assigned() AS text) AS bigint) + 1)"
    )


class ServerStart(Func):
    """The time at which the database server started; on other databases than PostgreSQL the beginning of 1970.

    It differs after a failover and in another cluster, where the numbers of transactions have another meaning.
    """

    output_field = DateTimeField()
    template, function = "%(function)s", "pg_postmaster_start_time()"

    def as_sql(self, compiler: Any, connection: BaseDatabaseWrapper, *form: Any, **context: Any) -> Any:
        if connection.vendor != "postgresql":
            return "'1970-01-01 00:00:00'", ()
        return super().as_sql(compiler, connection, *form, **context)


class StatementTime(ServerStart):
    """The time of the database server when the current statement began. Use it on PostgreSQL only."""

    function = "statement_timestamp()"


class ChangedField(BigIntegerField):  # type: ignore[type-arg]
    """The number of the transaction that last wrote the row.

    `save` and inserts write it. `QuerySet.update` does not, so a model with this field needs a QuerySet that does. It
    is left out of dumps, because in another database its numbers have another meaning.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        fixed = {"editable": False, "serialize": False, "db_default": ThisTransaction()}
        super().__init__(*args, **{**kwargs, **fixed})

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        for fixed in ("editable", "serialize", "db_default"):
            kwargs.pop(fixed, None)
        return name, path, args, kwargs

    def pre_save(self, model_instance: Model, add: bool) -> Any:
        return ThisTransaction()
