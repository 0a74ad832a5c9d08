from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from threading import Lock, Timer
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, CommandParser
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from allowance.interface import GRACE
from allowance.plumbing.console import progress_bar
from allowance.plumbing.errors import RefusedError
from allowance.plumbing.programs import INTERRUPTED, AnsweringCommand
from routing.upkeep.following import PARTS, following

PATIENCE = GRACE + 0.5
"""Seconds from a signal until the work is cancelled."""

LAST = 4.75
"""Seconds from a signal until the process ends, whatever its threads wait for."""


class Command(AnsweringCommand):
    help = (
        "Follow the chain: record its finalized blocks, the manifests and the collateral of the miners, and their "
        "receipts, until Ctrl-C or SIGTERM. A second follower stands by, and takes over when the first one ends. "
        "Exit code: 0 ended as asked; 1 with --once or --dry-run, a source failed (the log says which); 2 bad options "
        "or settings, or the ledger belongs to another chain, subnet or validator."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        how = parser.add_mutually_exclusive_group()
        how.add_argument("--once", action="store_true", help="record what is due now, and end")
        how.add_argument("--until", type=int, metavar="N", help="end when block N is recorded")
        parser.add_argument(
            "--only", metavar="PARTS", help=f"follow only these parts, separated by commas: {', '.join(PARTS)}"
        )
        how.add_argument(
            "--dry-run",
            action="store_true",
            help="read the newest block, the manifests and the collateral, show what would be recorded, record nothing",
        )
        parser.add_argument(
            "--accept-silence",
            action="store_true",
            help="record the next manifest sync even if most miners are silent: it voids their allowance",
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        chosen = list(PARTS) if options["only"] is None else options["only"].split(",")
        if unknown := sorted(set(chosen) - set(PARTS)):
            raise CommandError(f"Unknown parts: {', '.join(unknown)}. The parts are: {', '.join(PARTS)}.", returncode=2)
        if (options["until"] or 0) < 0:
            raise CommandError(f"--until must be a block number, not {options['until']}.", returncode=2)
        try:
            failed = asyncio.run(self.follow(chosen, options))
        except (ImproperlyConfigured, RefusedError) as error:
            raise CommandError(str(error), returncode=2) from error
        if failed:
            raise CommandError(f"These parts failed: {', '.join(failed)}. The log says why.", returncode=1)

    async def follow(self, chosen: list[str], options: dict[str, Any]) -> list[str]:
        """Follow as the options say. Return the parts that failed."""
        shown = Shown(self, as_json=options["format"] == "json")
        follower = following(shown.tell, parts=chosen, accept_silence=options["accept_silence"])
        stop, is_single = asyncio.Event(), options["dry_run"] or options["once"]
        if is_single:
            work = asyncio.create_task(follower.preview() if options["dry_run"] else follower.once())
        else:
            work = asyncio.create_task(follower.follow(stop, until=options["until"]))
        for number in (signal.SIGTERM, signal.SIGINT):
            how = (0, INTERRUPTED) if is_single else (PATIENCE, 0)
            asyncio.get_running_loop().add_signal_handler(number, end, work, stop, *how)
        try:
            with shown.progress:
                return await work
        except asyncio.CancelledError:
            if is_single:
                raise KeyboardInterrupt from None
            return []
        finally:
            await follower.close()


def end(work: asyncio.Task[Any], stop: asyncio.Event, patience: float, code: int) -> None:
    """End the work after a signal: let it stop by itself, and cancel it after `patience` seconds.

    A thread that waits for the database can't be cancelled. After LAST seconds the process ends without it: the server
    rolls back what it has not committed.
    """
    stop.set()
    asyncio.get_running_loop().call_later(patience, work.cancel)
    last = Timer(LAST, os._exit, (code,))
    last.daemon = True
    last.start()


class Shown:
    """What the command shows: progress on a terminal, else one line for each event."""

    def __init__(self, command: Command, *, as_json: bool) -> None:
        self.command, self.as_json = command, as_json
        self.counts: Counter[str] = Counter()
        self.newest: dict[str, Any] = {}
        self.head = 0
        self.lock = Lock()  # several threads tell
        columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        terminal = progress_bar(*columns)
        self.progress = terminal if command.stdout.isatty() and not as_json else Progress(disable=True)
        self.task = self.progress.add_task("Connecting")

    def tell(self, event: str, **facts: Any) -> None:
        """Show an event."""
        with self.lock:
            self.counts[event] += 1
            self.newest[event] = facts
            if not self.progress.disable:
                self.progress.update(self.task, description=self._description())
            elif self.as_json:
                self.command.write_json({"event": event, **facts})
            else:
                self.command.stdout.write(" ".join([event, *(f"{name}={value}" for name, value in facts.items())]))
            self.command.stdout.flush()

    def _description(self) -> str:
        if "block" not in self.newest:
            return "Waiting: another follower leads" if "standby" in self.newest else "Connecting"
        block = self.newest["block"]
        self.head = max(self.head, block["number"])
        parts = [f"Block {self.head}", f"{self.counts['block']} recorded"]
        if missing := block.get("missing"):
            parts.append(f"{missing} missing")
        if sync := self.newest.get("manifests"):
            parts.append(f"{sync['answered']} of {sync['asked']} manifests at {sync['block']}")
        return ", ".join(parts)
