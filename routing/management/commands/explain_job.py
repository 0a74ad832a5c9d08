from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser
from rich.console import Console
from rich.text import Text

from allowance.interface import clock, validation
from allowance.plumbing.programs import AnsweringCommand
from routing.log import replay, report
from routing.log.report import Explanation, happenings, of_job

DIFFERS, UNKNOWN, NOT_KEPT = 1, 2, 3


class Command(AnsweringCommand):
    help = (
        "Explain why a job went to its miner, or why it was refused. Print each decision on the job, and what happened "
        "to the job afterwards. Exit code: 0 explained, and with --replay all decisions agree; 1 a replay differs; "
        "2 nothing is recorded about the job, or bad input; 3 with --replay, a decision has no stored candidates to "
        "replay."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("uuid", help="the uuid of the job")
        parser.add_argument("--replay", action="store_true", help="decide again from the recorded input, and compare")
        parser.add_argument("--top", type=int, metavar="N", help="show only the first N candidates")

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
                f"Nothing is recorded about job {uuid}. It never reached this router, it was refused before a decision "
                "(bad input, or too long), or its records have been pruned.",
                returncode=UNKNOWN,
            )
        again = [replay.differences(each.record) for each in explained] if options["replay"] else []
        if options["format"] == "json":
            happened = [{"at": happening.at.isoformat(), "what": happening.sentence} for happening in since]
            self.write_json(self.as_json(explained, again) | {"happened": happened})
        else:
            console = self.console
            for i, each in enumerate(explained):
                self.show(each, console, options["top"])
                if again:
                    self.show_replay(each, again[i], console)
                console.print()
            for happening in since:
                console.print(f"{happening.at.isoformat(sep=' ', timespec='seconds')}  {happening.sentence}")
        if code := DIFFERS if any(again) else NOT_KEPT if None in again else 0:
            raise SystemExit(code)

    def as_json(self, explained: list[Explanation], again: list[list[str] | None]) -> dict[str, object]:
        now = clock.now()
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
            kept = "the log keeps the candidates of the first refusals and of a sample"
            console.print(f"The candidates of this decision are not stored: {kept}.", style="dim", soft_wrap=True)
        fate = each.fate(clock.now())
        console.print(Text(fate, style="green" if record.miner else "red"), soft_wrap=True)
        console.print(each.summary, soft_wrap=True)

    def show_replay(self, each: Explanation, found: list[str] | None, console: Console) -> None:
        if each.record.window_hours is None:
            console.print("A fixed route has no candidates to replay.", style="yellow")
        elif found is None:
            console.print("The decision can't be replayed: its candidates are not stored.", style="yellow")
        elif not found:
            console.print("The replay of the recorded input gives the same decision.", style="green")
        else:
            console.print("The replay of the recorded input gives another decision:", style="red")
            for difference in found:
                console.print(Text(f"  {difference}"), soft_wrap=True)
