"""What is asked of the database, and how PostgreSQL would find it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from allowance.plumbing.compiled import Compiled
from tests.factories import stored

postgresql = pytest.mark.skipif(connection.vendor != "postgresql", reason="row locks and EXPLAIN (FORMAT JSON)")


def queries(call: Callable[[], object]) -> list[str]:
    """Return the SQL that a call runs."""
    with CaptureQueriesContext(connection) as captured:
        call()
    return [query["sql"] for query in captured]


def plan(sql: str, parameters: Any = None) -> list[dict[str, Any]]:
    """Return the nodes of PostgreSQL's plan for a query, the uppermost first."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}", parameters)
        nodes = [explained["Plan"] for explained in cursor.fetchone()[0]]
    for node in nodes:
        nodes += node.get("Plans", [])
    return nodes


def _read_by(nodes: list[dict[str, Any]]) -> set[str]:
    return read_whole(nodes) | {node["Index Name"] for node in nodes if "Index Name" in node}


def read_whole(nodes: list[dict[str, Any]]) -> set[str]:
    """Return the tables of which a plan reads every row."""
    return {node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"}


def scans(sql: str, parameters: Any = None) -> set[str]:
    """Return the indexes by which PostgreSQL, freshly vacuumed, would read a query, and the tables it reads whole."""
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
    return _read_by(plan(sql, parameters))


def scans_of_any_values(statement: Compiled, **values: Any) -> set[str]:
    """Return the same for a prepared statement whose plan is made for any values."""
    compiled = statement.statement(connection)
    values_in_text = ", ".join(f"'{values[param.value]}'" for _, param in compiled.each)
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
        cursor.execute(f"PREPARE any_values AS {compiled.numbered.replace('%', '%%')}")
        cursor.execute("SET plan_cache_mode = force_generic_plan")
    try:
        return _read_by(plan(f"EXECUTE any_values ({values_in_text})"))
    finally:
        with connection.cursor() as cursor:
            cursor.execute("RESET plan_cache_mode")
            cursor.execute("DEALLOCATE any_values")


def assert_only_reads(call: Callable[[], object]) -> None:
    """Insist that a call asks the database for something, locks nothing, and changes no row."""
    before = stored()
    statements = [sql.strip("( \n").upper() for sql in queries(call)]
    assert statements
    assert [sql for sql in statements if not sql.startswith("SELECT") or "FOR UPDATE" in sql] == []
    assert stored() == before
