"""Follow a recorded subnet into SQLite, route a stream of jobs, report the results: `python -m project.demo`."""
# ruff: noqa: E402

from __future__ import annotations

import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))  # at once: the imports below take a second

import datetime as dt
import heapq
import os
import random
import statistics
import time
from collections import Counter
from typing import NamedTuple
from uuid import UUID

import django

from project.serve import DATABASE, FOLLOWED, lock_database, remove, show_pages

UNFINISHED = DATABASE.with_name(f"{DATABASE.name}.unfinished")
"""The file in which the database is made. It replaces the old database when it is complete."""

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
os.environ.update(FOLLOWED, DEBUG="1", DATABASE_URL=f"sqlite:///{UNFINISHED}", LOG_LEVEL="ERROR")
os.environ["ROUTING_DECISIONS_SAMPLE"] = "1"
django.setup()

from django.core.management import call_command
from django.db import connection
from rich.console import Console
from rich.progress import track
from rich.table import Table

from allowance import allowance, reservations
from allowance.plumbing.console import wide_console
from allowance.plumbing.programs import answering
from allowance.types import ExecutorClass
from project.chain import Follower, following
from project.past import CLASSES, VALIDATOR, new_uuid, set_the_scene, started
from receipts import receipts
from receipts.schemas import JobFinished
from routing import service
from routing.decision.model import Decision
from routing.incidents import record_incident
from routing.log import report
from routing.requests import plain_request
from routing.types import MinerIncidentType

JOBS = 300
STREAM = dt.timedelta(minutes=10)
"""How long the stream of jobs takes on the subnet's clock. It ends now, so that dry runs find recent blocks."""

WAITING = 24
"""The number of last jobs whose reservations stay held. Each is longer than the one before: one expires soon."""


def main() -> None:
    """Run the demo. It makes a new database each time, and exits if the database is being served."""
    lock_database()
    remove(UNFINISHED)
    try:
        run(wide_console(sys.stdout))
    finally:
        connection.close()
        remove(UNFINISHED)


def run(console: Console) -> None:
    """Make the database, print what happens, and put the database in its place."""
    call_command("migrate", verbosity=0)
    rng = random.Random(12)  # noqa: S311 (a demo that is the same each time)
    start = dt.datetime.now(dt.UTC) - STREAM
    with following() as follower:
        blocks = follower.due(start)
        for number in track(blocks, "Following the chain", console=console, disable=not console.is_terminal):
            follower.record(number)
        miners = [miner.hotkey_ss58 for miner in allowance().miners() if miner.is_reachable]
        console.print(
            f"Recorded {follower.counts['block']} blocks and {follower.counts['manifests']} manifest syncs of a chain "
            f"with {len(miners)} miners. The chain is a recorded subnet, played again and again.\n",
            soft_wrap=True,
        )
        follower.record_collateral()
        set_the_scene(rng, miners, start)
        stream = Stream(rng, start, follower)
        for _ in track(range(JOBS), "Routing jobs", console=console, disable=not console.is_terminal):
            stream.next_job()
    _explain(console, stream.decisions)
    _summarise(console, stream)
    console.print("The ledger", style="bold underline")
    call_command("check_ledger")
    console.print()
    put_in_place()
    _what_next(console, stream)


def put_in_place() -> None:
    """Replace the demo's database with the new one. Raises OperationalError if another connection uses the new one."""
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode=DELETE")  # all data is in one file then
    connection.close()
    remove(DATABASE)
    UNFINISHED.rename(DATABASE)


class Running(NamedTuple):
    """A job that a miner is running. It ends at `over`."""

    over: dt.datetime
    uuid: UUID
    started: dt.datetime
    hotkey: str
    executor_class: str
    blocks: list[int]


class Stream:
    """A stream of jobs that are routed, run, and fail or finish, on a simulated clock."""

    def __init__(self, rng: random.Random, now: dt.datetime, follower: Follower) -> None:
        self.rng = rng
        self.now = now
        self.follower = follower
        self.decisions: list[Decision] = []
        self.seconds: list[float] = []
        self.running: list[Running] = []

    def next_job(self) -> None:
        """Advance the clock, record new blocks, finish the jobs that are over, then route and start one job."""
        self.now += STREAM / JOBS
        for number in self.follower.due(self.now):
            self.follower.record(number)
        while self.running and self.running[0].over <= self.now:
            self.finish(heapq.heappop(self.running))
        uuid, executor_class = new_uuid(self.rng), self.rng.choices(CLASSES, (3, 2, 2))[0]
        waiting = len(self.decisions) - (JOBS - WAITING)
        seconds = 20 + 50 * waiting if waiting >= 0 else self.rng.choice([20, 300, 900, 1800, 2700, 3600, 3600])
        request = plain_request(executor_class, seconds, uuid)
        before = time.perf_counter()
        decision = service.pick(request, now=self.now)
        self.seconds.append(time.perf_counter() - before)
        self.decisions.append(decision)
        if decision.route is None or decision.route.allowance_reservation_id is None or waiting >= 0:
            return
        hotkey, blocks = decision.route.miner.hotkey_ss58, decision.route.allowance_blocks or []
        reservation, chance = decision.route.allowance_reservation_id, self.rng.random()
        if chance < 0.05:
            self.report(MinerIncidentType.MINER_JOB_REJECTED, hotkey, uuid, executor_class)
            reservations.release(reservation, now=self.now)
        elif chance < 0.92:  # the others never spend their reservation, which expires
            receipts().record(started(uuid, hotkey, executor_class, self.now, ttl=int(decision.job.seconds) + 60))
            reservations.spend(reservation, now=self.now)
            over = self.now + dt.timedelta(seconds=decision.job.seconds * self.rng.uniform(0.2, 1))
            heapq.heappush(self.running, Running(over, uuid, self.now, hotkey, executor_class, blocks))

    def finish(self, job: Running) -> None:
        """Record that a job finished, or that it failed."""
        if self.rng.random() < 0.04:
            self.report(MinerIncidentType.MINER_JOB_FAILED, job.hotkey, job.uuid, job.executor_class)
            return
        receipt = JobFinished(
            job_uuid=job.uuid,
            miner_hotkey=job.hotkey,
            validator_hotkey=VALIDATOR,
            timestamp=job.over,
            time_started=job.started,
            time_took_us=(job.over - job.started) // dt.timedelta(microseconds=1),
            score_str="1",
            block_numbers=job.blocks,
        )
        receipts().record(receipt)

    def report(self, kind: MinerIncidentType, hotkey: str, uuid: UUID, executor_class: str) -> None:
        """Record an incident now."""
        record_incident(
            incident_type=kind, hotkey=hotkey, job_uuid=uuid, executor_class=executor_class, timestamp=self.now
        )


def _explain(console: Console, decisions: list[Decision]) -> None:
    routed = [d for d in decisions if d.route and d.counts]
    refused = [d for d in decisions if not d.route]
    for title, found in (("Why a job went to its miner", routed), ("Why a job was refused", refused)):
        if found:
            console.print(title, style="bold underline")
            report.show(max(found, key=lambda d: len(d.counts)), console, most=8)
            console.print()


def _summarise(console: Console, stream: Stream) -> None:
    console.print("Summary", style="bold underline")
    outcomes = Counter(decision.outcome for decision in stream.decisions)
    busiest = Counter(d.route.miner.hotkey_ss58 for d in stream.decisions if d.route).most_common(5)
    table = Table(box=None, show_header=False, pad_edge=False)
    for outcome, n in outcomes.most_common():
        table.add_row(outcome.label, str(n))
    table.add_row("busiest miners", ", ".join(f"{miner} ({n})" for miner, n in busiest))
    cuts = statistics.quantiles(stream.seconds, n=20)
    table.add_row("time per pick", f"p50 {cuts[9] * 1000:.1f} ms, p95 {cuts[18] * 1000:.1f} ms (SQLite)")
    console.print(table)
    console.print()


def _what_next(console: Console, stream: Stream) -> None:
    console.print("Try next", style="bold underline")
    console.print("Run make serve. It prints a password for these pages:")
    show_pages(console)
    console.print(
        "Run export DEBUG=1 DATABASE_URL=sqlite:///demo.sqlite3, and then these commands on the database:",
        soft_wrap=True,
    )
    dry_run = f"dry_run_routing --executor-class {ExecutorClass.always_on__gpu_24gb} --seconds 300"
    refused = next(decision.job.uuid for decision in reversed(stream.decisions) if not decision.route)
    for command in (
        f"explain_job {refused} --replay --top 5",
        "routing_status",
        f"{dry_run} --top 10",
        f"{dry_run} --min-collateral 2tao",
        "reservations",
        "check_ledger",
        "prune --dry-run",
        "issue_token facilitator --scope jobs",
    ):
        console.print(f"  .venv/bin/python manage.py {command}", soft_wrap=True)


if __name__ == "__main__":
    with answering():
        main()
