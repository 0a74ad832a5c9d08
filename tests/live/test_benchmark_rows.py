"""The rows of the benchmark that follow a chain work from their subnet to their figures, whatever those are."""

from __future__ import annotations

import json
import os
import sys

import pytest

from tests.programs import Program

ROWS = {"live_block", "sync", "catch_up", "beside"}

pytestmark = [pytest.mark.live, pytest.mark.django_db]


def test_the_rows_of_the_follower_have_figures() -> None:
    settings = {"BENCH_SCALE": "small", "BENCH_FORMAT": "json", "BENCH_ROWS": ",".join(ROWS)}
    given = {"DATABASE_URL": os.environ["DATABASE_URL"], **settings}
    ended = Program(sys.executable, "-m", "tests.benchmarks", environment=given).finish()
    assert ended.code == 0, ended.err
    rows = json.loads(ended.out)["rows"]
    assert {row["row"] for row in rows} == ROWS
    assert all(row["ours"] > 0 for row in rows), rows
