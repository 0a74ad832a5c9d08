"""The long run of the simulation: `make soak`, or `python -m tests.properties.soak [--journal FILE]`.

SOAK_OPS operations (1000000) from seed SOAK_SEED (1) on, in SOAK_JOBS processes (as many as there are cores), on the
database that DATABASE_URL names: SQLite files in a temporary folder, or a PostgreSQL server, where each process makes a
database of its own. SOAK_FORMAT=json prints the counts for programs. Exit codes: 0 all agreed, 1 the real code did what
the contract does not allow, or a process died, 2 something was never exercised, 130 interrupted. A run of fewer than
20,000 operations, as the rest of one that was interrupted may be, only tells what it did not exercise.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tests.properties.coverage import Tally, missing, summary

console = Console(highlight=False, soft_wrap=True)
errors = Console(highlight=False, soft_wrap=True, stderr=True)

ENOUGH = 20_000
"""Operations from which on it is a fault never to have exercised something. In 3,000 one thing may be lacking, in 8,000
hardly ever."""

Report = dict[str, Any]


class WorkerDied(Exception):
    """Say that a worker ended without a report, running this seed, or none yet; it printed why."""

    def __init__(self, seed: int | None) -> None:
        super().__init__(f"A process died {'before its first seed' if seed is None else f'running seed {seed}'}.")


class Worker:
    """A process that runs seeds. Its reports go to `reports`, each with the worker."""

    def __init__(self, database: str, reports: SimpleQueue[tuple[Worker, Report | None]], journal: str = "") -> None:
        task = json.dumps({"database": database, "journal": journal})
        command = [sys.executable, "-m", "tests.properties.worker", task]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.seed: int | None = None
        Thread(target=self._read, args=(reports,), daemon=True).start()

    def run(self, seed: int) -> None:
        """Let the worker run a seed next."""
        assert self.process.stdin is not None
        self.seed = seed
        self.process.stdin.write(f"{seed}\n")
        self.process.stdin.flush()

    def close(self) -> None:
        """Wait until the worker has ended what it does and dropped its database."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _read(self, reports: SimpleQueue[tuple[Worker, Report | None]]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            reports.put((self, json.loads(line)))
        reports.put((self, None))


@contextmanager
def workers(number: int, journal: str = "") -> Iterator[tuple[list[Worker], SimpleQueue[tuple[Worker, Report | None]]]]:
    """Start so many workers; at the end they end, and their databases are gone."""
    reports: SimpleQueue[tuple[Worker, Report | None]] = SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, ExitStack() as stack:
        os.environ.setdefault("DATABASE_URL", f"sqlite:///{folder}/unused.sqlite3")
        on_server = os.environ["DATABASE_URL"].startswith("postgres")
        names = [f"soak_{os.getpid()}_{i}" if on_server else f"{folder}/{i}.sqlite3" for i in range(number)]
        team = [Worker(name, reports, journal) for name in names]
        for worker in team:
            stack.callback(worker.close)
        yield team, reports


@dataclass
class Soak:
    """What the run has come to. All seeds below `next_seed` are done."""

    wanted: int
    next_seed: int
    ops: int = 0
    tally: Tally = field(default_factory=Tally)
    vendor: str = "sqlite"
    failures: list[Report] = field(default_factory=list)
    done: set[int] = field(default_factory=set)

    def take(self, report: Report) -> None:
        """Add up what a worker reports."""
        self.vendor = report.get("vendor", self.vendor)
        if "seed" not in report:
            return
        self.ops += report["ops"]
        self.tally.update({(section, name): n for section, name, n in report["tally"]})
        self.done.add(report["seed"])
        while self.next_seed in self.done:
            self.done.remove(self.next_seed)
            self.next_seed += 1
        if report["failure"]:
            self.failures.append(report)


def run(soak: Soak, jobs: int) -> None:
    """Run seeds until there are operations enough, or a failure."""
    seeds = count(soak.next_seed)
    columns = ("{task.description}", "{task.fields[speed]} ops/s", "seed {task.fields[seed]}")
    description, *others = map(TextColumn, columns)
    with (
        workers(jobs) as (team, reports),
        Progress(
            *(description, BarColumn(), MofNCompleteColumn(), *others, TimeElapsedColumn(), TimeRemainingColumn()),
            console=errors,
        ) as progress,
    ):
        task = progress.add_task("soaking", total=soak.wanted, speed="–", seed=soak.next_seed)
        began, busy = time.perf_counter(), len(team)
        while busy:
            worker, report = reports.get()
            if report is None:
                raise WorkerDied(worker.seed)
            soak.take(report)
            speed = f"{soak.ops / (time.perf_counter() - began):.0f}"
            progress.update(task, completed=min(soak.ops, soak.wanted), speed=speed, seed=soak.next_seed)
            if soak.ops >= soak.wanted or soak.failures:
                busy -= 1
            else:
                worker.run(next(seeds))


def replay(journal: str) -> int:
    """Run the history of a file."""
    with workers(1, journal) as (_, reports):
        while (report := reports.get()[1]) is not None:
            if report.get("failure"):
                console.print(report["failure"]["text"], markup=False)
                return 1
            if "seed" in report:
                console.print(f"{report['ops']} operations, all as the model says.")
                return 0
    return 1


def tell(soak: Soak, seconds: float, *, complete: bool) -> int:
    """Print what was exercised, what failed and, of a complete run, what was never exercised; return the exit code."""
    lacking = missing(soak.tally, soak.vendor) if complete else []
    enough = soak.ops >= ENOUGH
    if os.environ.get("SOAK_FORMAT") == "json":
        counts: dict[str, dict[str, int]] = {}
        for (section, name), n in sorted(soak.tally.items()):
            counts.setdefault(section, {})[name] = n
        known = {"database": soak.vendor, "operations": soak.ops, "seconds": round(seconds, 1), "counts": counts}
        failures = [{"seed": f["seed"], **f["failure"]} for f in soak.failures]
        sys.stdout.write(json.dumps({**known, "missing": lacking, "failures": failures}) + "\n")
    else:
        console.print(summary(soak.tally))
        console.print(f"{soak.ops:,} operations on {soak.vendor} in {seconds:.0f} s, seeds up to {soak.next_seed - 1}")
        for name in lacking:
            console.print(f"{'never exercised' if enough else 'not exercised in so short a run'}: {name}")
    for report in soak.failures:
        path = Path(f"soak-{report['seed']}.jsonl")
        path.write_text(report["failure"]["journal"])
        errors.print(report["failure"]["text"], markup=False)
        errors.print(f"The same history alone: python -m tests.properties.soak --journal {path}")
    return 1 if soak.failures else 2 if lacking and enough else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--journal", metavar="FILE", help="run the history in this file, and nothing else")
    if journal := parser.parse_args().journal:
        return replay(journal)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    number = {name: int(os.environ.get(f"SOAK_{name}") or default) for name, default in DEFAULTS.items()}
    soak, began = Soak(number["OPS"], number["SEED"]), time.perf_counter()
    try:
        run(soak, number["JOBS"])
    except KeyboardInterrupt:
        return stop_early(soak, time.perf_counter() - began, 130)
    except WorkerDied as death:
        errors.print(str(death), style="bold red")
        return stop_early(soak, time.perf_counter() - began, 1)
    return tell(soak, time.perf_counter() - began, complete=True)


def stop_early(soak: Soak, seconds: float, code: int) -> int:
    """Print what was exercised so far and how to go on; return the exit code."""
    tell(soak, seconds, complete=False)
    errors.print(f"Go on with: SOAK_SEED={soak.next_seed} SOAK_OPS={max(1, soak.wanted - soak.ops)} make soak")
    return code


DEFAULTS = {"OPS": 1_000_000, "SEED": 1, "JOBS": os.cpu_count() or 1}

if __name__ == "__main__":
    sys.exit(main())
