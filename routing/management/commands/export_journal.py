from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from allowance.plumbing.programs import AnsweringCommand, reader_is_gone
from routing.upkeep.journal import export


class Command(AnsweringCommand):
    help = (
        "Write the history to a journal. A router that replays the journal into an empty database gives the same "
        "answers. Exit code: 0 written, 2 the file can't be written."
    )

    has_formats = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "file",
            nargs="?",
            default="-",
            help="the file to create, compressed if its name ends in .gz; - for standard output",
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        name: str = options["file"]
        if name == "-":
            for line in export():
                self.stdout.write(line)
                if reader_is_gone():
                    return
            return
        count = 0
        try:
            with Path(name).open("xb") as raw:
                file = gzip.GzipFile(fileobj=raw, mode="wb") if name.endswith(".gz") else raw
                for line in export():
                    file.write(line.encode() + b"\n")
                    count += 1
                file.close()
        except OSError as error:
            raise CommandError(f"Can't write {name}: {error.strerror}.", returncode=2) from error
        self.stdout.write(f"Wrote {count} entries to {name}.")
