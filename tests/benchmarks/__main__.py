"""Measure a pick against the floor: `python -m tests.benchmarks`, on the PostgreSQL that the tests would use.

The floor is one transaction of Django's that any reservation needs: lock an account, insert a reservation, update the
account. It takes turns with the picks, so that a noisy machine hits both. BENCH_FORMAT=json prints JSON.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from uuid import uuid4

import django
from rich.console import Console
from rich.progress import Progress

from tests.__main__ import postgres

ROUNDS = 200


def main() -> None:
    with postgres() as url:
        os.environ.update(DATABASE_URL=url, DJANGO_SETTINGS_MODULE="tests.settings", LOG_LEVEL="ERROR")
        django.setup()
        from django.test.utils import setup_databases, teardown_databases  # noqa: PLC0415 (needs the line above)

        databases = setup_databases(verbosity=0, interactive=False)
        try:
            measure()
        finally:
            teardown_databases(databases, verbosity=0)


def measure() -> None:
    """Seed the subnet, take the measurements in turn, and print them."""
    from django.db import connection, transaction  # noqa: PLC0415
    from django.test.utils import CaptureQueriesContext  # noqa: PLC0415

    from allowance import allowance  # noqa: PLC0415
    from allowance.models import Account, Reservation  # noqa: PLC0415
    from allowance.types import ExecutorClass  # noqa: PLC0415
    from routing import routing  # noqa: PLC0415
    from tests.benchmarks.seed import seed  # noqa: PLC0415
    from tests.factories import job_request  # noqa: PLC0415

    now = dt.datetime.now(dt.UTC)
    any_account = Account.objects.order_by("pk").values_list("pk", flat=True)

    def floor() -> None:
        with transaction.atomic():
            account = Account.objects.select_for_update().get(pk=pk)
            Reservation.objects.create(
                account=account,
                job_uuid=uuid4(),
                blocks=[1, 2, 3],
                created_at=now,
                expires_at=now + dt.timedelta(seconds=130),
                state="released",
                ended_at=now,
            )
            account.save(update_fields=["held"])

    picked: list[int] = []

    def pick(seconds: int) -> Callable[[], None]:
        def run() -> None:
            route = routing().pick(job_request(seconds, executor_class=ExecutorClass.always_on__gpu_24gb))
            picked.append(route.allowance_reservation_id or 0)

        return run

    numbers = iter(range(1723, 10**6))

    def take_in_a_block() -> None:
        allowance().record_block(number=next(numbers), timestamp=dt.datetime.now(dt.UTC), stake_share=0.1)

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        seeding = progress.add_task("Seeding")
        for done, total in seed(
            now=now, miners=256, blocks=723, incidents=5000, receipts=20_000, ongoing=200, held=2000
        ):
            progress.update(seeding, completed=done, total=total)
        pk = any_account[0]
        rows = {"floor": floor, "pick, 30 s job": pick(30), "pick, 300 s job": pick(300), "block": take_in_a_block}
        times: dict[str, list[float]] = {name: [] for name in rows}
        with CaptureQueriesContext(connection) as captured:
            pick(30)()
        measuring = progress.add_task("Measuring", total=ROUNDS)
        for _ in range(ROUNDS):
            for name, run in rows.items():
                before = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - before)
            while picked:
                allowance().undo_allowance_reservation(picked.pop())
            progress.advance(measuring)
    report(times, len(captured))


def report(times: dict[str, list[float]], statements: int) -> None:
    """Print medians, 95th percentiles and ratios to the floor."""
    floor = statistics.median(times["floor"])
    rows = [
        {
            "row": name,
            "p50_ms": round(statistics.median(seconds) * 1000, 2),
            "p95_ms": round(statistics.quantiles(seconds, n=20)[18] * 1000, 2),
            "floors": round(statistics.median(seconds) / floor, 2),
        }
        for name, seconds in times.items()
    ]
    if os.environ.get("BENCH_FORMAT") == "json":
        sys.stdout.write(json.dumps({"rounds": ROUNDS, "statements_per_pick": statements, "rows": rows}) + "\n")
        return
    for row in rows:
        sys.stdout.write(
            f"{row['row']:<16} p50 {row['p50_ms']:>7} ms   p95 {row['p95_ms']:>7} ms   {row['floors']:>5} floors\n"
        )
    sys.stdout.write(f"{statements} SQL statements a pick\n")


if __name__ == "__main__":
    main()
