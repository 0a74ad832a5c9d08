"""QuerySets that are compiled once and run many times with other values.

To compile a QuerySet takes several times as long as to run it. Use this for the few statements that every pick runs.
Everywhere else use a plain QuerySet: its shape may vary, and its values stand where they are used.

For PostgreSQL to plan a large union takes several times as long as to run it. If `prepare_threshold` is set in the
OPTIONS of the database, PostgreSQL therefore prepares these statements, and no others. Behind a pooler that can't do
this, leave it out. A statement whose best plan depends on a time among its values must not be prepared: a plan for any
time may read whole tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from django.db import InterfaceError, NotSupportedError, OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Field, Model, QuerySet, Value, sql
from django.db.models.constants import OnConflict
from django.db.models.fields import NOT_PROVIDED

from allowance.plumbing.database import alias, database, is_in_transaction

Row = TypeVar("Row", bound=Model)


class Param(Value):
    """A value that is given when the statement runs. `field` prepares it for the database.

    It can't be a list, and None only where it is stored: both would change the text of a condition.
    """

    def __init__(self, name: str, field: Field[Any, Any]) -> None:
        super().__init__(name, output_field=field)
        self.column = field

    def as_sql(self, compiler: Any, connection: BaseDatabaseWrapper) -> Any:
        """Return a placeholder, with this object as its parameter."""
        placeholder = getattr(self.column, "get_placeholder", None)
        return placeholder(None, compiler, connection) if placeholder else "%s", (self,)

    def bind(self, values: dict[str, Any], connection: BaseDatabaseWrapper) -> Any:
        """Return the parameter for the database. Raises TypeError for None."""
        value = values[self.value]
        if value is None and not self.for_save:
            raise TypeError(f"{self.value} can't be None: a compiled condition has a fixed text.")
        prepare = self.column.get_db_prep_save if self.for_save else self.column.get_db_prep_value
        prepared = prepare(value, connection)
        if isinstance(prepared, int) and not isinstance(prepared, bool):  # psycopg would choose a type by the value
            return connection.ops.adapt_integerfield_value(prepared, "BigIntegerField")
        return prepared


class Statement(NamedTuple):
    """A compiled statement. `converters` are the converters of its columns by index, each with its expression."""

    sql: str
    params: tuple[Any, ...]
    converters: dict[int, tuple[list[Callable[..., Any]], Any]]


class Compiled:
    """A statement on the database of the apps. It is compiled at its first use.

    `make` returns a QuerySet of rows as tuples, or a query as `updating` or `inserting` return it. It is called once
    for each alias. Two threads may both call it at first: they get equal statements.
    """

    def __init__(self, make: Callable[[], QuerySet[Any, Any] | sql.Query], *, prepare: bool = True) -> None:
        self._make = make
        self._prepare = prepare
        self._statements: dict[str, Statement] = {}

    def fetch(self, **values: Any) -> list[tuple[Any, ...]]:
        """Run the statement with values for its parameters, and return its rows.

        If the connection is broken, connect anew and repeat the statement, except in a transaction. This takes no
        statement, unlike Django's test of a connection.
        """
        connection: Any = database()
        if connection.connection is None or is_in_transaction(connection):
            return self._fetch(connection, values)
        connection.health_check_done = True
        try:
            return self._fetch(connection, values)
        except (InterfaceError, NotSupportedError, OperationalError) as error:
            # A prepared statement is not supported any more if the type of a column has changed.
            if not isinstance(error, NotSupportedError) and connection.is_usable():
                raise
            connection.close()
            return self._fetch(connection, values)

    def _fetch(self, connection: BaseDatabaseWrapper, values: dict[str, Any]) -> list[tuple[Any, ...]]:
        with self._run(connection, values) as cursor:
            rows: list[Any] = cursor.fetchall()
        converters = self._statement(connection).converters
        return [*_converted(rows, converters, connection)] if converters else rows

    def execute(self, **values: Any) -> int:
        """Run the statement with values for its parameters, and return the number of rows that it wrote."""
        with self._run(database(), values) as cursor:
            written: int = cursor.rowcount
        return written

    @contextmanager
    def _run(self, connection: BaseDatabaseWrapper, values: dict[str, Any]) -> Iterator[Any]:
        with connection.cursor() as cursor:
            prepares = self._prepare and connection.settings_dict["OPTIONS"].get("prepare_threshold") is not None
            if prepares and not connection.queries_logged:  # Django's log can't show a statement that is prepared
                cursor.cursor = _preparing(connection)
            cursor.execute(*self._bound(connection, values))  # the ORM compiled it, and has no word to run it
            yield cursor

    def sql_with_params(self, **values: Any) -> tuple[str, list[Any]]:
        """Return the text of the statement and its parameters."""
        return self._bound(database(), values)

    def _bound(self, connection: BaseDatabaseWrapper, values: dict[str, Any]) -> tuple[str, list[Any]]:
        statement = self._statement(connection)
        params = [param.bind(values, connection) if isinstance(param, Param) else param for param in statement.params]
        return statement.sql, params

    def _statement(self, connection: BaseDatabaseWrapper) -> Statement:
        statement = self._statements.get(connection.alias)
        if statement is None:
            statement = self._statements[connection.alias] = _compile(self._make(), connection)
        return statement


def _compile(made: QuerySet[Any, Any] | sql.Query, connection: BaseDatabaseWrapper) -> Statement:
    query = made if isinstance(made, sql.Query) else made.query
    compiler: Any = query.get_compiler(connection.alias)
    compiled = compiler.as_sql()
    text, params = compiled[0] if isinstance(compiled, list) else compiled  # insertions may be several statements
    if connection.vendor == "postgresql":
        text, params = _with_constants(text, params, connection)
    columns = [expression for expression, *_ in compiler.select or ()]
    return Statement(text, tuple(params), compiler.get_converters(columns))


def _with_constants(text: str, params: Sequence[Any], connection: Any) -> tuple[str, list[Param]]:
    """Return a statement with its constants in the text, and the parameters that are left.

    A plan for all values of a parameter can't use a partial index, such as that of the held reservations.
    """
    first, *others = text.split("%s")
    parts, left = [first], []
    for param, part in zip(params, others, strict=True):
        if isinstance(param, Param):
            left.append(param)
            parts += ["%s", part]
        else:
            parts += [connection.ops.compose_sql("%s", [param]).replace("%", "%%"), part]
    return "".join(parts), left


def _preparing(connection: Any) -> Any:
    """Return a cursor that sends parameters apart from the text. Django's default cursor puts them into the text."""
    from django.db.backends.postgresql.base import ServerBindingCursor  # noqa: PLC0415 (SQLite needs no psycopg)

    return ServerBindingCursor(connection.connection)  # type: ignore[call-arg]


def _converted(rows: list[Any], converters: dict[int, Any], connection: BaseDatabaseWrapper) -> Iterator[Any]:
    of_column = [(place, convert, expression) for place, (found, expression) in converters.items() for convert in found]
    for row in map(list, rows):
        for place, convert, expression in of_column:
            row[place] = convert(row[place], expression, connection)
        yield tuple(row)


def parameter(model: type[Model], name: str, called: str = "") -> Param:
    """Return a parameter for a column of a model, with the name of the column if it is not `called` otherwise."""
    field: Any = model._meta.get_field(name)
    return Param(called or name, field)


def columns_of(model: type[Model], prefix: str = "") -> list[str]:
    """Return the names of all columns of a model, for `values_list`."""
    return [prefix + field.attname for field in model._meta.concrete_fields]


def row_of(model: type[Row], values: Sequence[Any]) -> Row:
    """Return a row of a model that was read with the columns of `columns_of`."""
    return model.from_db(alias(), columns_of(model), values)


def stored_values(row: Model) -> dict[str, Any]:
    """Return the values of all columns of a row, for a statement of `inserting`."""
    return {field.attname: getattr(row, field.attname) for field in row._meta.concrete_fields}


def updating(rows: QuerySet[Any], **values: Any) -> sql.Query:
    """Return the statement of `rows.update(**values)`."""
    query: Any = rows.query.chain(sql.UpdateQuery)
    query.add_update_values(values)
    updated: sql.Query = query
    return updated


def inserting(model: type[Model], *, ignore_conflicts: bool = False) -> sql.Query:
    """Return the statement that inserts a row of a model. Each column is a parameter with the name of its field.

    The database fills the columns with an automatic id or a default of its own. With `ignore_conflicts` no row is
    written if a unique value is taken.
    """
    fields = [
        field
        for field in model._meta.concrete_fields
        if field is not model._meta.auto_field and field.db_default is NOT_PROVIDED
    ]
    row = model(**{field.attname: Param(field.attname, field) for field in fields})
    query = sql.InsertQuery(model, on_conflict=OnConflict.IGNORE if ignore_conflicts else None)
    query.insert_values(fields, [row], raw=True)
    return query
