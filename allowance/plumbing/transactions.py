"""The numbers of transactions, by which a reader finds what was written since it read last.

PostgreSQL numbers the transactions that write. Each row carries the number of its last writer. A reader notes the
number of the oldest transaction that is running. At its next reading the rows with this number or a higher one are new
to it. In whatever order transactions commit, no change is missed. Some rows are read more than once. On SQLite all
numbers are 0, so every row is always new.
"""

from __future__ import annotations

from typing import Any, Self

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import BigIntegerField, BooleanField, DateTimeField, Func, Model, QuerySet
from django.db.models.expressions import Combinable


class OfServer(Func):
    """A value that only PostgreSQL's server knows; on other databases the SQL text `elsewhere`."""

    template = "%(function)s"
    elsewhere: str

    def __init__(self, **extra: Any) -> None:
        super().__init__(**extra)

    def as_sql(self, compiler: Any, connection: BaseDatabaseWrapper, *form: Any, **context: Any) -> Any:
        if connection.vendor != "postgresql":
            return self.elsewhere, ()
        return super().as_sql(compiler, connection, *form, **context)


class Number(OfServer):
    """A number of a transaction, as PostgreSQL's function `function` returns it; 0 on other databases."""

    output_field = BigIntegerField()
    template, elsewhere = "CAST(CAST(%(function)s AS text) AS bigint)", "0"


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


class ServerStart(OfServer):
    """The time at which the database server started; on other databases than PostgreSQL the beginning of 1970.

    It differs after a failover and in another cluster, where the numbers of transactions have another meaning.
    """

    output_field = DateTimeField()
    function, elsewhere = "pg_postmaster_start_time()", "'1970-01-01 00:00:00'"


class ServerTime(OfServer):
    """The time by the server's clock after the statement has taken its snapshot; NULL on other databases.

    It is later than all that the statement sees, if that is dated by the same clock.
    """

    output_field = DateTimeField()
    function, elsewhere = "clock_timestamp()", "NULL"


class Bounded(OfServer):
    """A condition that is always true, and limits each later wait of the transaction to a number of milliseconds."""

    output_field = BooleanField()
    template, elsewhere = "set_config('lock_timeout', %(expressions)s, true) IS NOT NULL", "1"

    def __init__(self, milliseconds: Combinable) -> None:
        super().__init__()
        self.set_source_expressions([milliseconds])


class ChangedField(BigIntegerField):  # type: ignore[type-arg]
    """The number of the transaction that last wrote the row.

    Inserts write it. `save` writes it, unless `update_fields` leaves it out. `QuerySet.update` does not, so a model
    with this field needs a ChangedQuerySet. `dumpdata` leaves it out: the numbers mean nothing in another database.
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


class ChangedQuerySet(QuerySet[Any]):
    """Rows with a ChangedField named `changed`. An update writes the field too."""

    def changed_since(self, number: object) -> Self:
        """Return the rows written by the transactions from this number on.

        After a restore with `pg_restore`, rows may have numbers that this server has not given yet. They are left out.
        """
        return self.filter(changed__gte=number, changed__lt=NextTransaction())

    def update(self, **values: Any) -> int:
        return super().update(**{"changed": ThisTransaction(), **values})
