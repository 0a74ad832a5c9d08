from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import db
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from allowance.interface import clock
from allowance.plumbing.console import plain_table
from allowance.plumbing.programs import AnsweringCommand
from routing.watch.findings import Level
from routing.watch.measures import Work
from routing.watch.status import Status, status

STYLES = {
    Level.OK: "green",
    Level.INFO: "cyan",
    Level.WARNING: "yellow",
    Level.CRITICAL: "red",
    Level.UNKNOWN: "magenta",
}


class Command(AnsweringCommand):
    help = (
        "Show the state of routing: the chain, the ledger, and the refusals, expired reservations, waits for locks and "
        "miners of the last hour. The setting ROUTING_STATUS_LIMITS changes the limits. "
        "Exit code, for monitors: 0 ok; 1 warning; 2 critical, no database or bad arguments; 3 unknown."
    )
    requires_system_checks = ()  # monitors also need the status of a site with bad settings
    no_answer = Level.UNKNOWN.exit_code

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            found = status(clock.now())
        except db.Error as error:
            raise CommandError(f"CRITICAL: the database can't be read: {error}", returncode=2) from error
        except ImproperlyConfigured as error:
            raise CommandError(f"UNKNOWN: {error}", returncode=3) from error
        if options["format"] == "json":
            self.write_json(as_json(found))
        else:
            show(found, self.console)
        if found.level is not Level.OK:
            raise SystemExit(found.level.exit_code)


def as_json(found: Status) -> dict[str, object]:
    """Return a status as JSON values."""
    return {
        "level": found.level,
        "at": found.at.isoformat(),
        "findings": [finding.data for finding in found.findings],
        "most_jobs": [work._asdict() for work in found.most_jobs],
        "most_seconds": [work._asdict() for work in found.most_seconds],
    }


def show(found: Status, console: Console) -> None:
    """Print a summary line, which monitors show, then the findings and the miners with the most work."""
    line = Text(f"{found.level.upper()}: {found.sentence}", style=f"bold {STYLES[found.level]}")
    console.print(line, soft_wrap=True)
    numbers = "value", "warning above", "critical above"
    findings = plain_table("level", "finding", *numbers, "meaning", numbers=numbers, header_style="bold")
    for finding in found.findings:
        level = Text(finding.level, style=STYLES[finding.level])
        findings.add_row(level, finding.name, *finding.amounts, Text(finding.sentence))
    console.print(findings)
    for title, most in (("jobs", found.most_jobs), ("seconds", found.most_seconds)):
        if most:
            console.print(f"\nMost {title} of the last hour", style="bold")
            console.print(_table(most))


def _table(most: Sequence[Work]) -> Table:
    names = "jobs", "% of jobs", "seconds", "% of seconds"
    table = plain_table("hotkey", *names, numbers=names, header_style="bold")
    for work in most:
        numbers = f"{work.jobs:,}", f"{work.jobs_share:.1f}", f"{work.seconds:,.0f}", f"{work.seconds_share:.1f}"
        table.add_row(Text(work.miner), *numbers)
    return table
