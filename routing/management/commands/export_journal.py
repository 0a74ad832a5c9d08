from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from routing.journal import export


class Command(BaseCommand):
    help = "Write the history out as a journal. Replayed into an empty database, it gives the same answers."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", nargs="?", default="-", help="a new file, compressed if it ends in .gz; - to print")

    def handle(self, *_args: Any, **options: Any) -> None:
        name: str = options["file"]
        if name == "-":
            for line in export():
                self.stdout.write(line)
            return
        opened = gzip.open(name, "xt") if name.endswith(".gz") else Path(name).open("x")
        count = 0
        with opened as file:
            for line in export():
                file.write(line + "\n")
                count += 1
        self.stdout.write(f"Wrote {count} events to {name}.")
