"""The benchmark: `make bench`, or `python -m tests.benchmarks`, on the PostgreSQL that the tests would use.

Every figure is told as a ratio to another one, measured in turn with it (A B A B) in the same run, so that a noisy
machine hits both. The *floor* is what any reservation takes, the way Django's ORM does it: one transaction that locks
an account, inserts a reservation and updates the account. The databases are made for it and dropped at the end.

BENCH_FORMAT=json prints JSON. BENCH_ROWS=pick,history measures some rows only. BENCH_SCALE=small shows that it works,
too small for its figures to mean anything. Rows that need the extras are measured where those are installed
(`.venv-live/bin/python -m tests.benchmarks`). Exit codes: 0 measured, whether or not goals are met, 1 a row failed, 2
bad input, 130 interrupted.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import time
import traceback

from allowance.plumbing.console import wide_console
from tests.__main__ import postgres
from tests.benchmarks.bench import Bench
from tests.benchmarks.progress import Stages
from tests.benchmarks.report import Line, Report
from tests.benchmarks.rows import ROWS
from tests.benchmarks.server import databases_on
from tests.benchmarks.sizes import SCALES
from tests.benchmarks.team import workers_on


def main() -> int:
    scale = os.environ.get("BENCH_SCALE") or "full"
    keys = [key.strip() for key in (os.environ.get("BENCH_ROWS") or ",".join(ROWS)).split(",")]
    for name, given, known in (("BENCH_SCALE", [scale], SCALES), ("BENCH_ROWS", keys, ROWS)):
        if unknown := [key for key in given if key not in known]:
            sys.stderr.write(f"{name}: no {', '.join(unknown)}; there are: {', '.join(known)}\n")
            return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        report = measure(scale, keys)
    except KeyboardInterrupt:
        return 130
    if os.environ.get("BENCH_FORMAT") == "json":
        sys.stdout.write(report.as_json() + "\n")
    else:
        report.show(wide_console(sys.stdout))
    return 1 if report.failed else 0


def interrupt(*_: object) -> None:
    # Whoever ends a whole process group is heard twice, and the databases are still to be dropped.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def measure(scale: str, keys: list[str]) -> Report:
    """Measure the rows one by one. One that fails is told on stderr, and leaves the others their figures."""
    began = time.monotonic()
    stages = Stages(len(keys))
    lines: list[tuple[str, Line]] = []
    loads: dict[str, float] = {}
    failed: list[str] = []
    with postgres() as url, databases_on(url) as server, workers_on(url, 1) as (seeder,), stages.shown():
        machine = {"cores": os.cpu_count(), "Python": platform.python_version(), **server.facts()}
        bench = Bench(server, seeder, SCALES[scale], stages)
        for bench.row in keys:
            stages.next_row(bench.row)
            loads[bench.row] = os.getloadavg()[0]
            try:
                lines += [(bench.row, line) for line in ROWS[bench.row](bench)]
            except Exception:
                traceback.print_exc()
                failed.append(bench.row)
    return Report(
        machine=machine,
        scale=scale,
        rounds=bench.scale.rounds,
        seconds=round(time.monotonic() - began, 1),
        statements_per_pick=bench.statements_per_pick,
        loads=loads,
        lines=lines,
        times=bench.times,
        failed=failed,
    )


if __name__ == "__main__":
    sys.exit(main())
