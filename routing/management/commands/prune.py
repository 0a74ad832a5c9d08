from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser
from rich.table import Table

from allowance.interface import clock
from allowance.plumbing.connections import renew_connection
from allowance.plumbing.console import plain_table, progress_bar
from allowance.plumbing.programs import AnsweringCommand
from routing.upkeep.pruning import Kind, kept, kinds

BATCH = 500


class Command(AnsweringCommand):
    help = (
        "Delete rows that are older than the settings ROUTING_KEEP_..._DAYS and no longer needed, and mark expired "
        "reservations as expired. Routers and the chain follower can run meanwhile. "
        "Exit code: 0 pruned, 1 some rows were skipped because other transactions kept them locked (prune again), "
        "2 bad input."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--dry-run", action="store_true", help="count the rows that would be deleted or marked, and change nothing"
        )
        parser.add_argument("--batch", type=int, default=BATCH, metavar="N", help=f"rows per transaction ({BATCH})")

    def handle(self, *_args: Any, **options: Any) -> None:
        if options["batch"] < 1:
            raise CommandError(f"--batch must be 1 or more, not {options['batch']}.", returncode=2)
        dry_run: bool = options["dry_run"]
        todo = kinds(clock.now(), options["batch"])
        locked: list[str] = []
        rows = list(map(count, todo)) if dry_run else prune(todo, locked)
        if options["format"] == "json":
            found = [as_json(kind, n) for kind, n in zip(todo, rows, strict=True)]
            self.write_json({"dry_run": dry_run, "kinds": found, "locked": locked})
        else:
            self.console.print(as_table(todo, rows, dry_run=dry_run))
            for what in locked:
                self.stdout.write(f"Skipped, because other transactions kept rows locked: {what}. Prune again.")
        if locked:
            raise SystemExit(1)


def count(kind: Kind) -> int:
    renew_connection()
    return kind.count()


def prune(todo: list[Kind], locked: list[str]) -> list[int]:
    """Prune, with progress on a terminal. Return the number of rows of each kind. Add what is locked to `locked`."""
    done = []
    with progress_bar() as progress:
        for kind in todo:
            renew_connection()
            task = progress.add_task(kind.name, total=None if progress.disable else kind.count())
            rows = 0
            for batch in kind.prune():
                rows += batch.rows
                locked += [batch.locked] if batch.locked else []
                progress.update(task, completed=rows)
                renew_connection()
            done.append(rows)
    return done


def as_table(todo: list[Kind], rows: list[int], *, dry_run: bool) -> Table:
    numbers = "kept days", "to delete" if dry_run else "deleted"
    table = plain_table("kind", *numbers, numbers=numbers)
    for kind, n in zip(todo, rows, strict=True):
        if kind.setting is None:
            table.add_row(kind.name, "–", f"{n} to mark" if dry_run else f"{n} marked")
        else:
            table.add_row(kind.name, f"{days(kind.setting):g}", str(n))
    return table


def as_json(kind: Kind, rows: int) -> dict[str, object]:
    return {
        "kind": kind.name,
        "kept_days": kind.setting and days(kind.setting),
        "rows": rows,
        "what": "marked" if kind.setting is None else "deleted",
    }


def days(setting: str) -> float:
    return kept(setting).total_seconds() / 86_400
