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
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from traceback import format_exception_only
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tests.programs import Died, Worker
from tests.properties.coverage import Tally, missing, summary

console = Console(highlight=False, soft_wrap=True)
errors = Console(highlight=False, soft_wrap=True, stderr=True)

ENOUGH = 20_000
"""Operations from which on it is a fault never to have exercised something. In 3,000 one thing may be lacking, in 8,000
hardly ever."""

Report = dict[str, Any]


@contextmanager
def workers(number: int, journal: str = "") -> Iterator[list[Worker]]:
    """Start so many workers; at the end they have ended what they do, and their databases are gone."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, ExitStack() as stack:
        url = os.environ.get("DATABASE_URL", f"sqlite:///{folder}/unused.sqlite3")
        on_server = url.startswith("postgres")
        usual = {
            "LOG_LEVEL": "CRITICAL",
            "ALLOWANCE_LOCK_TIMEOUT": 60,
            "PGOPTIONS": os.environ.get("PGOPTIONS", "-c synchronous_commit=off"),  # nobody pulls this server's plug
        }
        team = []
        for i in range(number):
            team.append(Worker("tests.properties.worker", DATABASE_URL=url, **usual))
            stack.callback(team[-1].finish)
            name = f"soak_{os.getpid()}_{i}" if on_server else f"{folder}/{i}.sqlite3"
            team[-1].tell("soak", database=name, journal=journal)
        yield team


def run_seed(worker: Worker, seed: int) -> Report:
    """Let a worker run a seed, however long it takes, and return its report."""
    worker.say(seed)
    try:
        report: Report = worker.hear(None)
    except Died as death:
        death.add_note(f"It was running seed {seed}.")
        raise
    return report


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
        self.vendor = report["vendor"]
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
        ThreadPoolExecutor(jobs) as threads,
        workers(jobs) as team,
        Progress(
            *(description, BarColumn(), MofNCompleteColumn(), *others, TimeElapsedColumn(), TimeRemainingColumn()),
            console=errors,
        ) as progress,
    ):
        task = progress.add_task("soaking", total=soak.wanted, speed="–", seed=soak.next_seed)
        began = time.perf_counter()
        running = {threads.submit(run_seed, worker, next(seeds)): worker for worker in team}
        while running:
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                worker = running.pop(done)
                soak.take(done.result())
                speed = f"{soak.ops / (time.perf_counter() - began):.0f}"
                progress.update(task, completed=min(soak.ops, soak.wanted), speed=speed, seed=soak.next_seed)
                if soak.ops < soak.wanted and not soak.failures:
                    running[threads.submit(run_seed, worker, next(seeds))] = worker


def replay(journal: str) -> int:
    """Run the history of a file."""
    with workers(1, str(Path(journal).resolve())) as (worker,):
        report = worker.hear(None)
    if report["failure"]:
        console.print(report["failure"]["text"], markup=False)
        return 1
    console.print(f"{report['ops']} operations, all as the model says.")
    return 0


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
    except Died as death:
        errors.print("".join(format_exception_only(death)), style="bold red", markup=False)
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
