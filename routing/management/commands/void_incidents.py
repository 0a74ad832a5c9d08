from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Callable
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser
from django.core.management.base import CommandError, CommandParser
from django.utils import timezone
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from allowance import validation
from allowance.console import wide_console
from allowance.programs import AnsweringCommand
from allowance.types import BadInputError, LockTimeout
from routing.models import MinerIncident
from routing.reliability import VOIDED_AT_ONCE
from routing.types import MinerIncidentType
from routing.voiding import Group, Incidents, groups, void_for

NOTHING, BAD_INPUT, LOCKED = 1, 2, 3


class Command(AnsweringCommand):
    help = (
        "Void incidents, for good: they stay in the list, and no pick counts them any more. Each keeps who did it and "
        "why, and has an entry in the admin's log. "
        "Exit code: 0 voided, or counted with --dry-run; 1 no incident that counts matches; 2 bad input, or not "
        f"confirmed; 3 others kept a class locked: what was voided until then, {VOIDED_AT_ONCE} at a time, stays (void "
        "again)."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        which = parser.add_argument_group("which, all that is given must match")
        which.add_argument("--since", metavar="TIME", help="happened then or later (ISO 8601, with a zone)")
        which.add_argument("--until", metavar="TIME", help="happened before (ISO 8601, with a zone)")
        which.add_argument("--miner", metavar="HOTKEY")
        which.add_argument("--executor-class", metavar="CLASS")
        which.add_argument("--type", choices=[*MinerIncidentType])
        parser.add_argument("--reason", metavar="TEXT", help="why they should not count")
        parser.add_argument("--by", metavar="USER", help="the user of the site who answers for it")
        parser.add_argument("--dry-run", action="store_true", help="count what would be voided, and void nothing")
        parser.add_argument("--yes", action="store_true", help="do not ask whether to go on")
        parser.add_argument("--format", choices=["text", "json"], default="text")

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            matching = selected(options)
            user = None if options["dry_run"] else voider(options)
        except ValueError as error:
            raise CommandError(str(error), returncode=BAD_INPUT) from error
        found = groups(matching)
        count = sum(group.incidents for group in found)
        before = matching.filter(voided_at__isnull=False).count()
        if options["format"] == "text" and count:
            wide_console(self.stdout._out).print(as_table(found))
        voided, locked = 0, None
        if user is not None and count:
            confirm(count, options)
            voided, locked = self.void(matching, user, options["reason"], count)
        if options["format"] == "json":
            of = [group._asdict() for group in found]
            told = {"dry_run": options["dry_run"], "matching": count, "voided": voided, "voided_before": before}
            self.stdout.write(json.dumps({**told, "of": of}))
        elif count:
            already = f" Voided before: {before} more that match." if before else ""
            what = "would be voided" if user is None else "are voided"
            self.stdout.write(f"{incidents(voided if user else count)} {what}.{already}")
        if locked is not None:
            raise CommandError(f"{count - voided} of {incidents(count)} are not voided. {locked}", returncode=LOCKED)
        if not count:
            already = f" Voided before: {before} that would match." if before else ""
            raise CommandError(f"No incident that counts matches.{already}", returncode=NOTHING)

    def void(
        self, matching: Incidents, user: AbstractBaseUser, reason: str, count: int
    ) -> tuple[int, LockTimeout | None]:
        """Void, with progress on a terminal; return how many were, and what ended it before all were."""
        terminal = Console(stderr=True)
        columns = TextColumn("Voiding"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        voided = 0
        with Progress(*columns, console=terminal, disable=not terminal.is_terminal) as progress:
            task = progress.add_task("", total=count)
            try:
                for some in void_for(matching, user, reason=reason, now=timezone.now()):
                    voided += some
                    progress.update(task, completed=voided)
            except LockTimeout as error:
                return voided, error
            except BadInputError as error:
                raise CommandError(f"--reason: {error}", returncode=BAD_INPUT) from error
        return voided, None


def selected(options: dict[str, Any]) -> Incidents:
    """Return the incidents that the options name. Raises ValueError, which names the option to blame."""
    chosen: dict[str, object] = {}
    for option, lookup in (("since", "timestamp__gte"), ("until", "timestamp__lt")):
        if options[option] is not None:
            chosen[lookup] = moment(f"--{option}", options[option])
    checks: dict[str, tuple[str, Callable[[str], str]]] = {
        "miner": ("hotkey_ss58address", validation.hotkey),
        "executor_class": ("executor_class", validation.executor_class),
        "type": ("type", str),
    }
    for option, (lookup, check) in checks.items():
        if options[option] is not None:
            try:
                chosen[lookup] = check(options[option])
            except BadInputError as error:
                raise ValueError(f"--{option.replace('_', '-')}: {error}") from None
    if not chosen:
        raise ValueError("Name incidents: --since, --until, --miner, --executor-class, --type, or several of them.")
    if {"timestamp__gte", "timestamp__lt"} <= chosen.keys() and chosen["timestamp__gte"] >= chosen["timestamp__lt"]:  # type: ignore[operator]
        raise ValueError(f"--until {options['until']} is not after --since {options['since']}.")
    return MinerIncident.objects.filter(**chosen)


def voider(options: dict[str, Any]) -> AbstractBaseUser:
    """Return the user who voids. Raises ValueError without one, or without a reason."""
    if not options["reason"] or not options["reason"].strip():
        raise ValueError("Voiding takes a reason, which is kept: --reason TEXT.")
    users = get_user_model()._default_manager
    user = users.filter(**{get_user_model().USERNAME_FIELD: options["by"] or ""}).first()
    if user is None:
        raise ValueError(f"--by takes the name of a user of this site, who answers for it, not {options['by']!r:.80}.")
    return user


def confirm(count: int, options: dict[str, Any]) -> None:
    """Ask whether to void so many. Without a terminal only --yes will do."""
    if options["yes"]:
        return
    question = f"Void {incidents(count)}? This can't be taken back. [y/N] "
    if not sys.stdin.isatty() or input(question).strip().lower() not in ("y", "yes"):
        raise CommandError("Nothing is voided. Add --yes to void them without being asked.", returncode=BAD_INPUT)


def moment(option: str, text: str) -> dt.datetime:
    """Return the time that an option names. Raises ValueError for anything but a time with a zone."""
    try:
        return validation.timestamp(dt.datetime.fromisoformat(text))
    except ValueError as error:
        raise ValueError(f"{option} {text!r:.80}: {error} Write it as 2026-01-31T12:00:00+00:00.") from None


def incidents(count: int) -> str:
    return f"{count} incident{'' if count == 1 else 's'}"


def as_table(found: list[Group]) -> Table:
    table = Table("executor class", "type", box=None, pad_edge=False)
    for name in ("incidents", "miners"):
        table.add_column(name, justify="right")
    for group in found:
        table.add_row(group.executor_class, group.type, str(group.incidents), str(group.miners))
    return table
