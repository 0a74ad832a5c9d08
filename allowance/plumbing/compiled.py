"""QuerySets that are compiled once and run many times with other values.

To compile a QuerySet takes several times as long as to run it. Use this for the few statements that every pick runs.
Everywhere else use a plain QuerySet: its shape may vary, and its values stand where they are used.

PostgreSQL takes several times as long to plan a large union as to run it. If `prepare_threshold` is set in the OPTIONS
of the database, PostgreSQL prepares these statements, except those with `prepare=False`. It then plans each of them
once for a connection. Leave the option out behind a pooler that can't do this.

Such a plan is made for any values. It does not know that few rows are new, so with a join it may read whole tables. So
use subqueries, not joins. Pass `prepare=False` if the best plan depends on a time among the values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from django.db import InterfaceError, NotSupportedError, OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Field, ForeignKey, IntegerField, Model, QuerySet, Value, sql
from django.db.models.fields import NOT_PROVIDED

from allowance.plumbing.database import alias, database, is_in_transaction

Row = TypeVar("Row", bound=Model)


class Param(Value):
    """A value that is given when the statement runs. `field` prepares it for the database.

    In a condition it can be neither a list nor None: the text of the SQL would differ.
    """

    def __init__(self, name: str, field: Field[Any, Any]) -> None:
        super().__init__(name, output_field=field)
        self.column = field
        self._is_integer = isinstance(field, (IntegerField, ForeignKey))

    def as_sql(self, compiler: Any, connection: BaseDatabaseWrapper) -> Any:
        """Return a placeholder, with this object as its parameter."""
        placeholder = getattr(self.column, "get_placeholder", None)
        return placeholder(None, compiler, connection) if placeholder else "%s", (self,)

    def bind(self, values: Mapping[str, Any], connection: BaseDatabaseWrapper) -> Any:
        """Return the parameter for the database. Raises TypeError if the value of a condition is None."""
        value = values[self.value]
        if value is None and not self.for_save:
            raise TypeError(f"{self.value} can't be None: a compiled condition has a fixed text.")
        if not (self._is_integer and type(value) is int):
            prepare = self.column.get_db_prep_save if self.for_save else self.column.get_db_prep_value
            value = prepare(value, connection)
        if isinstance(value, int) and not isinstance(value, bool):  # psycopg would choose a type by the value
            return connection.ops.adapt_integerfield_value(value, "BigIntegerField")
        return value


@dataclass(frozen=True)
class Statement:
    """A compiled statement. `converters` are the converters of its columns by index, each with its expression.

    The values of its parameters are in several mappings. `params` has for each placeholder the number of the mapping
    and the Param.
    """

    sql: str
    params: tuple[tuple[int, Any], ...]
    converters: dict[int, tuple[list[Callable[..., Any]], Any]]

    @cached_property
    def _keys(self) -> list[tuple[int, Param, bool]]:
        """The parameters, each with whether it is stored. Equal ones have equal values."""
        return [(place, param, param.for_save) for place, param in self.params]

    @cached_property
    def each(self) -> tuple[tuple[int, Param], ...]:
        """The distinct parameters of the prepared form, in the order of their numbers."""
        return tuple((place, param) for place, param, _ in dict.fromkeys(self._keys))

    @cached_property
    def numbered(self) -> str:
        """The text of the prepared form, in which equal parameters have one number."""
        numbers = {key: number for number, key in enumerate(dict.fromkeys(self._keys), start=1)}
        keys = iter(self._keys)
        return re.sub("%(.)", lambda found: "%" if found[1] == "%" else f"${numbers[next(keys)]}", self.sql)

    def bound(self, connection: BaseDatabaseWrapper, *values: Mapping[str, Any]) -> tuple[str, list[Any]]:
        """Return the text and the parameters of the statement."""
        return self.sql, _bound(self.params, values, connection)

    @contextmanager
    def run(self, connection: Any, *values: Mapping[str, Any], prepare: bool = True) -> Iterator[Any]:
        """Run the statement. The ORM has no API to run SQL that it compiled before."""
        with connection.cursor() as cursor:
            # Django's log can't show a statement that is prepared.
            if prepare and _prepares(connection) and not connection.queries_logged:
                cursor.cursor = _raw_cursor(connection)
                cursor.execute(self.numbered, _bound(self.each, values, connection))
            else:
                cursor.execute(*self.bound(connection, *values))
            yield cursor


def _bound(params: Any, values: Sequence[Mapping[str, Any]], connection: BaseDatabaseWrapper) -> list[Any]:
    return [param.bind(values[place], connection) if isinstance(param, Param) else param for place, param in params]


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

        If the connection is broken, connect anew and repeat the statement, except in a transaction. Unlike with Django,
        a working connection needs no test statement.
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
        statement = self.statement(connection)
        with statement.run(connection, values, prepare=self._prepare) as cursor:
            rows: list[Any] = cursor.fetchall()
        return [*_converted(rows, statement.converters, connection)] if statement.converters else rows

    def execute(self, **values: Any) -> int:
        """Run the statement with values for its parameters, and return the number of rows that it wrote."""
        connection = database()
        with self.statement(connection).run(connection, values, prepare=self._prepare) as cursor:
            written: int = cursor.rowcount
        return written

    def statement(self, connection: BaseDatabaseWrapper) -> Statement:
        """Return the statement for a database."""
        statement = self._statements.get(connection.alias)
        if statement is None:
            with _compiling(connection):
                statement = self._statements[connection.alias] = _compile(self._make(), connection)
        return statement


@contextmanager
def _compiling(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Let the ORM compile locks outside a transaction too. To begin one would lock all of SQLite."""
    connection.ensure_connection()
    autocommit, connection.autocommit = connection.autocommit, False
    try:
        yield
    finally:
        connection.autocommit = autocommit


def _compile(made: QuerySet[Any, Any] | sql.Query, connection: BaseDatabaseWrapper) -> Statement:
    query = made if isinstance(made, sql.Query) else made.query
    compiler: Any = query.get_compiler(connection.alias)
    compiled = compiler.as_sql()
    text, params = compiled[0] if isinstance(compiled, list) else compiled  # insertions may be several statements
    if connection.vendor == "postgresql":
        text, params = _with_constants(text, params, connection)
    columns = [expression for expression, *_ in compiler.select or ()]
    return Statement(text, tuple((0, param) for param in params), compiler.get_converters(columns))


class Together:
    """An update, and insertions that run only if the update changes a row. PostgreSQL runs them as one statement.

    It is a transaction of its own, unless the caller has begun one. The ORM can't join its statements, so this class
    joins their SQL. On SQLite they run one after the other: call it in a transaction.
    """

    def __init__(self, update: Compiled, *inserts: Compiled) -> None:
        self._parts = update, *inserts
        self._statements: dict[str, Statement] = {}

    def execute(self, *values: Mapping[str, Any]) -> bool:
        """Run the statements, each with values for its parameters. Return whether a row was updated."""
        connection = database()
        if connection.vendor != "postgresql":
            update, *inserts = zip(self._parts, values, strict=True)
            return bool(update[0].execute(**update[1])) and all(part.execute(**given) for part, given in inserts)
        statement = self._statements.get(connection.alias)
        if statement is None:
            statement = self._statements[connection.alias] = self._joined(connection)
        with statement.run(connection, *values) as cursor:
            return bool(cursor.rowcount)

    def _joined(self, connection: BaseDatabaseWrapper) -> Statement:
        """Return the statement of all parts. Its number of rows is that of the last insertion."""
        update, *inserts = parts = [part.statement(connection) for part in self._parts]
        texts = [f"{update.sql} RETURNING 1"]
        for insert in inserts:
            columns, values = insert.sql.split(" VALUES (")
            texts.append(f"{columns} SELECT {values.removesuffix(')')} FROM part_0")  # noqa: S608 (the ORM's own text)
        *before, last = texts
        text = f"WITH {', '.join(f'part_{i} AS ({part})' for i, part in enumerate(before))} {last}"
        return Statement(text, tuple((i, param) for i, part in enumerate(parts) for _, param in part.params), {})


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


def plan_once(connection: Any, **_signal: object) -> None:
    """Let a new connection plan each prepared statement once, if it prepares any.

    PostgreSQL overestimates the rows. Without these settings it would plan or JIT-compile at each run.
    """
    if connection.vendor == "postgresql" and connection.alias == alias() and _prepares(connection):
        with connection.cursor() as cursor:  # the ORM selects from tables only
            cursor.execute(
                "SELECT set_config('plan_cache_mode', 'force_generic_plan', false), set_config('jit', 'off', false)"
            )


def _prepares(connection: Any) -> bool:
    asked = connection.settings_dict["OPTIONS"].get("prepare_threshold") is not None
    return asked and hasattr(connection.Database, "RawCursor")  # psycopg has it since 3.2


def _raw_cursor(connection: Any) -> Any:
    """Return a cursor that takes $1, $2 as placeholders, and does not parse the text."""
    return connection.Database.RawCursor(connection.connection)


def _converted(rows: list[Any], converters: dict[int, Any], connection: BaseDatabaseWrapper) -> Iterator[Any]:
    of_column = [(place, convert, expression) for place, (found, expression) in converters.items() for convert in found]
    for row in map(list, rows):
        for place, convert, expression in of_column:
            if row[place] is not None:  # NULL stays None: the callers handle it
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
    """Return an UPDATE of `rows` with `values`. Unlike `ChangedQuerySet.update`, it does not add `changed`."""
    query: Any = rows.query.chain(sql.UpdateQuery)
    query.add_update_values(values)
    updated: sql.Query = query
    return updated


def inserting(model: type[Model]) -> sql.Query:
    """Return the statement that inserts a row of a model. Each column is a parameter with the name of its field.

    The database fills the columns with an automatic id or a default of its own.
    """
    fields = [
        field
        for field in model._meta.concrete_fields
        if field is not model._meta.auto_field and field.db_default is NOT_PROVIDED
    ]
    row = model(**{field.attname: Param(field.attname, field) for field in fields})
    query = sql.InsertQuery(model)
    query.insert_values(fields, [row], raw=True)
    return query
