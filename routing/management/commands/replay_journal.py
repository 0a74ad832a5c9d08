from __future__ import annotations

import gzip
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from django.core.management.base import CommandError, CommandParser
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

from allowance.plumbing.console import progress_bar
from allowance.plumbing.programs import AnsweringCommand
from routing.upkeep.journal import MAX_LINE, JournalError, replay


class Command(AnsweringCommand):
    help = (
        "Record a subnet's history from a journal, which has one JSON entry per line. A second replay changes nothing. "
        "Exit code: 0 all entries recorded; 2 the file can't be read, or a line is wrong (the error has the number of "
        "the line; earlier lines are recorded)."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", help="the journal, plain or compressed with gzip; - for standard input")

    def handle(self, *_args: Any, **options: Any) -> None:
        name: str = options["file"]
        try:
            raw = sys.stdin.buffer if name == "-" else Path(name).open("rb")  # noqa: SIM115 (closed below)
        except OSError as error:
            raise CommandError(f"Can't read {name}: {error.strerror}.", returncode=2) from error
        with raw:
            counts, problem = self.replay(raw, None if name == "-" else Path(name).stat().st_size)
        if options["format"] == "json":
            left = None if problem is None else {"line": problem.line, "problem": problem.problem}
            self.write_json({"recorded": counts, "error": left})
        else:
            kinds = ", ".join(f"{n} {kind}" for kind, n in counts.most_common())
            self.stdout.write(f"Replayed {counts.total()} entries" + (f": {kinds}." if kinds else "."))
        if problem is not None:
            raise CommandError(str(problem), returncode=2)

    def replay(self, raw: BinaryIO, size: int | None) -> tuple[Counter[str], JournalError | None]:
        """Replay with a progress bar on a terminal. Return the number of events by kind, and the error or None."""
        counts: Counter[str] = Counter()
        columns = (
            TextColumn("Replaying"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[events]} entries"),
            TimeRemainingColumn(),
        )
        with progress_bar(*columns) as progress:
            task = progress.add_task("", total=size, events=0)
            packed = raw.peek(2)[:2] == b"\x1f\x8b"  # type: ignore[attr-defined]
            file = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if packed else raw
            lines = iter(partial(file.readline, MAX_LINE + 1), b"")  # bounded: a small .gz could fill all memory
            try:
                # Standard input may be a follower that is still writing: record each line when it arrives.
                for kind in replay(lines, batch=100 if size is not None else 1):
                    counts[kind] += 1
                    progress.update(task, completed=raw.tell() if size is not None else 0, events=counts.total())
            except JournalError as error:
                return counts, error
        return counts, None
