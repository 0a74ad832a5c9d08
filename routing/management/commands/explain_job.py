from __future__ import annotations

import json
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone
from rich.console import Console
from rich.text import Text

from allowance.interface import validation
from allowance.plumbing.console import wide_console
from allowance.plumbing.programs import AnsweringCommand
from routing.log import replay, report
from routing.log.explain import Explanation, Happening, happenings, of_job

DIFFERS, UNKNOWN, NOT_KEPT = 1, 2, 3


class Command(AnsweringCommand):
    help = (
        "Tell why a job went where it went, or nowhere: every decision on it, and what became of it. "
        "Exit code: 0 told, and with --replay all agree; 1 a replay differs; 2 nothing is on record of such a job; "
        "3 --replay found a decision whose candidates were not kept."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("uuid", help="the job's")
        parser.add_argument("--replay", action="store_true", help="make each decision again from what was recorded")
        parser.add_argument("--top", type=int, metavar="N", help="show the first N candidates only")
        parser.add_argument("--format", choices=["text", "json"], default="text")

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            uuid = validation.job_uuid(options["uuid"])
            if options["top"] is not None and options["top"] < 1:
                raise ValueError(f"--top must be 1 or more, not {options['top']}.")
        except ValueError as error:
            raise CommandError(str(error), returncode=UNKNOWN) from error
        explained, since = of_job(uuid), happenings(uuid)
        if not explained and not since:
            raise CommandError(
                f"Nothing is on record of job {uuid}. It never came here, was refused before anybody was asked (bad "
                "input, or too long), or what was kept of it is pruned.",
                returncode=UNKNOWN,
            )
        again = [replay.differences(each.record) for each in explained] if options["replay"] else []
        if options["format"] == "json":
            self.stdout.write(json.dumps(self.as_json(explained, again) | {"happened": [*map(_told, since)]}))
        else:
            console = wide_console(self.stdout._out)
            for i, each in enumerate(explained):
                self.show(each, console, options["top"])
                if again:
                    self.show_replay(again[i], console)
                console.print()
            for happening in since:
                console.print(f"{happening.at.isoformat(sep=' ', timespec='seconds')}  {happening.sentence}")
        if code := DIFFERS if any(again) else NOT_KEPT if None in again else 0:
            raise SystemExit(code)

    def as_json(self, explained: list[Explanation], again: list[list[str] | None]) -> dict[str, object]:
        now = timezone.now()
        told = [each.as_json(now) for each in explained]
        return {"decisions": [each | ({"replay_differs_in": again[i]} if again else {}) for i, each in enumerate(told)]}

    def show(self, each: Explanation, console: Console, most: int | None) -> None:
        record = each.record
        when = record.at.isoformat(sep=" ", timespec="milliseconds")
        waited = f", of which it waited {record.waited_us / 1000:.1f} ms for locks" if record.waited_us else ""
        console.print(f"{when}, in {record.microseconds / 1000:.1f} ms{waited}", style="dim")
        where = "" if record.block is None else f", at block {record.block}"
        job = f"Job {record.job_uuid}: {record.executor_class}, {record.seconds:g} s{where}"
        console.print(Text(job), style="bold", soft_wrap=True)
        if each.decision:
            report.show_candidates(each.decision, console, most=most)
        elif record.window_hours is not None:
            sample = "only a sample of the routes and refusals has them"
            console.print(f"Its candidates were not kept: {sample}.", style="dim")
        fate = each.fate(timezone.now())
        console.print(Text(fate, style="green" if record.miner else "red"), soft_wrap=True)
        console.print(each.summary, soft_wrap=True)

    def show_replay(self, found: list[str] | None, console: Console) -> None:
        if found is None:
            console.print("It can't be made again: its candidates were not kept.", style="yellow")
        elif not found:
            console.print("Made again from what was recorded, it agrees.", style="green")
        else:
            console.print("Made again from what was recorded, it differs:", style="red")
            for difference in found:
                console.print(Text(f"  {difference}"), soft_wrap=True)


def _told(happening: Happening) -> dict[str, str]:
    return {"at": happening.at.isoformat(), "what": happening.sentence}
