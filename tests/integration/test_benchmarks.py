"""The benchmark works from its databases to its figures, whatever those are on so small a scale."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.db import connection

from tests.benchmarks.rows import ROWS
from tests.programs import DEADLINE

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.skipif(connection.vendor != "postgresql", reason="the benchmark is of PostgreSQL"),
]


@contextmanager
def benchmark(**settings: str) -> Iterator[subprocess.Popen[str]]:
    """Start a small benchmark; at the end, however it comes, it has ended and dropped its databases."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "BENCH_SCALE": "small", **settings},
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                process.kill()


def databases_of(process: subprocess.Popen[str]) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", [f"bench_{process.pid}_"])
        return [name for (name,) in cursor.fetchall()]


@pytest.mark.parametrize("rows", [list(ROWS)[part::3] for part in range(3)])
def test_the_benchmark_has_a_figure_for_every_row_and_leaves_no_database(rows: list[str]) -> None:
    with benchmark(BENCH_FORMAT="json", BENCH_ROWS=",".join(rows)) as process:
        out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, err
    report = json.loads(out)
    assert {row["row"] for row in report["rows"]} == set(rows)
    for row in report["rows"]:
        if row["goal"] == "≤ 0":
            assert row["ours"] == 0
        else:
            assert row["ours"] > 0, row
            assert row["ratio"] is None or row["ratio"] > 0, row
    assert all(0 < times["p50"] <= times["p95"] for times in report["times"])
    assert report["machine"]["synchronous_commit"] == "on"
    assert databases_of(process) == []


def test_a_benchmark_that_is_told_to_end_leaves_no_database() -> None:
    with benchmark(BENCH_ROWS="size,pick") as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("2 of 2"):
                break
        assert databases_of(process)
        process.terminate()
        assert process.wait(DEADLINE) == 130
    assert databases_of(process) == []


def test_unknown_rows_are_told_with_those_there_are() -> None:
    with benchmark(BENCH_ROWS="pick,luck") as process:
        _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 2
    assert err == f"BENCH_ROWS: no luck; there are: {', '.join(ROWS)}\n"
