"""The benchmark works from its databases to its figures, whatever those are on so small a scale."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator

import pytest
from django.db import connection

from tests.benchmarks import __main__ as program
from tests.benchmarks.bench import Bench
from tests.benchmarks.live import NEEDS
from tests.benchmarks.report import Line
from tests.benchmarks.rows import ROWS
from tests.programs import Program

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.skipif(connection.vendor != "postgresql", reason="the benchmark is of PostgreSQL"),
]


def benchmark(**settings: str) -> Program:
    """Start a small benchmark on the server that this process was told of."""
    given = {"DATABASE_URL": os.environ["DATABASE_URL"], "BENCH_SCALE": "small"}
    return Program(sys.executable, "-m", "tests.benchmarks", environment={**given, **settings})


def databases_of(program: Program) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT datname FROM pg_database WHERE starts_with(datname, %s)", [f"bench_{program.process.pid}_"]
        )
        return [name for (name,) in cursor.fetchall()]


@pytest.mark.parametrize("rows", [list(ROWS)[part::3] for part in range(3)])
def test_the_benchmark_has_a_figure_for_every_row_and_leaves_no_database(rows: list[str]) -> None:
    program = benchmark(BENCH_FORMAT="json", BENCH_ROWS=",".join(rows))
    ended = program.finish()
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    assert {row["row"] for row in report["rows"]} == set(rows)
    for row in report["rows"]:
        if row["ours"] is None:
            assert row["note"] == NEEDS
        elif row["goal"] == "≤ 0":
            assert row["ours"] == 0
        else:
            assert row["ours"] > 0, row
            assert row["ratio"] is None or row["ratio"] > 0, row
    assert all(0 < times["p50"] <= times["p95"] for times in report["times"])
    assert report["machine"]["synchronous_commit"] == "on"
    assert databases_of(program) == []


def test_a_benchmark_that_is_told_to_end_leaves_no_database() -> None:
    with benchmark(BENCH_ROWS="size,pick") as program:
        program.await_log("^2 of 2")
        assert databases_of(program)
        assert program.stop() == 130
    assert databases_of(program) == []


def test_a_row_that_fails_leaves_the_others_their_figures(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def good(_: Bench) -> Iterator[Line]:
        yield Line("a figure", 1.0, "s", None)

    def bad(_: Bench) -> Iterator[Line]:
        yield Line("half a row", 1.0, "s", None)
        raise RuntimeError("no luck")

    monkeypatch.setattr(program, "ROWS", {"good": good, "bad": bad})
    report = program.measure("small", ["bad", "good"])
    assert [line.name for _, line in report.lines] == ["a figure"]
    assert report.failed == ["bad"]
    assert "RuntimeError: no luck" in capfd.readouterr().err


def test_unknown_rows_are_told_with_those_there_are() -> None:
    ended = benchmark(BENCH_ROWS="pick,luck").finish()
    assert ended.code == 2
    assert ended.err == f"BENCH_ROWS: no luck; there are: {', '.join(ROWS)}\n"
