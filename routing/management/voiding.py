"""The shared parts of the two commands that void evidence: the user, the reason and the confirmation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser
from django.core.management.base import CommandError, CommandParser
from rich.table import Table

from allowance.interface import BadInputError, LockTimeout
from allowance.plumbing.console import plain_table, progress_bar
from allowance.plumbing.programs import AnsweringCommand
from routing.management.options import moment, named

NOTHING, BAD_INPUT, LOCKED = 1, 2, 3


class Selected(NamedTuple):
    """The rows that options select: groups and total of those not voided, the number voided before, and how to void."""

    groups: Sequence[Any]
    total: int
    before: int
    void: Callable[[AbstractBaseUser, str], Iterator[int]]


class VoidingCommand(AnsweringCommand):
    """A command that voids the rows that its options select, after it shows them and asks for confirmation."""

    noun: str
    permission: str
    """The permission that the user in --by needs."""

    def add_which(self, which: Any) -> None:
        """Add the options that select what to void. A row must match all of them."""
        raise NotImplementedError

    def selected(self, options: dict[str, Any]) -> Selected:
        """Return the rows that the options select. Raises ValueError, which names the wrong option."""
        raise NotImplementedError

    def add_arguments(self, parser: CommandParser) -> None:
        which = parser.add_argument_group("what to void (a row must match all these options)")
        self.add_which(which)
        parser.add_argument("--reason", metavar="TEXT", help="why the rows should not count")
        parser.add_argument("--by", metavar="USER", help="the user of this site who is responsible for this")
        parser.add_argument("--dry-run", action="store_true", help="count what would be voided, and void nothing")
        parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            found = self.selected(options)
            user = None if options["dry_run"] else voider(options, self.permission)
        except ValueError as error:
            raise CommandError(str(error), returncode=BAD_INPUT) from error
        if options["format"] == "text" and found.total:
            self.console.print(as_table(found.groups))
        voided, locked = 0, None
        if user is not None and found.total:
            self.confirm(found.total, options)
            voided, locked = self.void(found, user, options["reason"])
        self.tell(found, voided, options)
        if locked is not None:
            left = f"{found.total - voided} of {self.many(found.total)} are not voided."
            raise CommandError(f"{left} {locked}", returncode=LOCKED)
        if not found.total:
            already = f" Matching, but voided before: {found.before}." if found.before else ""
            raise CommandError(f"There is no matching {self.noun} to void.{already}", returncode=NOTHING)

    def void(self, found: Selected, user: AbstractBaseUser, reason: str) -> tuple[int, LockTimeout | None]:
        """Void, with progress on a terminal. Return the number of voided rows, and the LockTimeout, if any."""
        voided = 0
        with progress_bar() as progress:
            task = progress.add_task("Voiding", total=found.total)
            try:
                for some in found.void(user, reason):
                    voided += some
                    progress.update(task, completed=voided)
            except LockTimeout as error:
                return voided, error
            except BadInputError as error:
                raise CommandError(f"--reason: {error}", returncode=BAD_INPUT) from error
        return voided, None

    def tell(self, found: Selected, voided: int, options: dict[str, Any]) -> None:
        if options["format"] == "json":
            of = [group._asdict() for group in found.groups]
            counts = {"matching": found.total, "voided": voided, "voided_before": found.before}
            self.write_json({"dry_run": options["dry_run"], **counts, "of": of})
        elif found.total:
            already = f" Matching, but voided before: {found.before}." if found.before else ""
            dry_run = options["dry_run"]
            what = "would be voided" if dry_run else "are voided"
            self.stdout.write(f"{self.many(found.total if dry_run else voided)} {what}.{already}")

    def confirm(self, count: int, options: dict[str, Any]) -> None:
        """Ask whether to void `count` rows; without a terminal require --yes. Raises CommandError if not confirmed."""
        if options["yes"]:
            return
        question = f"Void {self.many(count)}? This can't be undone. [y/N] "
        if not sys.stdin.isatty() or input(question).strip().lower() not in ("y", "yes"):
            raise CommandError("Nothing was voided. Add --yes to void without confirmation.", returncode=BAD_INPUT)

    def many(self, count: int) -> str:
        return f"{count} {self.noun}{'' if count == 1 else 's'}"


def add_stretch(which: Any, verb: str) -> None:
    """Add the options that limit the time."""
    which.add_argument("--since", metavar="TIME", help=f"{verb} at this time or later (ISO 8601, with a zone)")
    which.add_argument("--until", metavar="TIME", help=f"{verb} before this time (ISO 8601, with a zone)")


def chosen(options: dict[str, Any], checks: Mapping[str, tuple[str, Callable[[str], object]]]) -> dict[str, object]:
    """Return the filter that options ask for. `checks` has, by option, the lookup and the check of its value.

    The options --since and --until limit the time. Raises ValueError for a bad value and names its option. Raises
    ValueError if there is no option.
    """
    found: dict[str, object] = {}
    stretch = {
        option: moment(f"--{option}", options[option]) for option in ("since", "until") if options[option] is not None
    }
    if len(stretch) == 2 and stretch["since"] >= stretch["until"]:
        raise ValueError(f"--until {options['until']} is not later than --since {options['since']}.")
    for option, at in stretch.items():
        found["timestamp__gte" if option == "since" else "timestamp__lt"] = at
    for option, (lookup, check) in checks.items():
        if options[option] is not None:
            with named(f"--{option.replace('_', '-')}"):
                found[lookup] = check(options[option])
    if not found:
        names = ", ".join(f"--{option.replace('_', '-')}" for option in ("since", "until", *checks))
        raise ValueError(f"Select what to void, with one or more of these options: {names}.")
    return found


def voider(options: dict[str, Any], permission: str) -> AbstractBaseUser:
    """Return the user in --by. Raises ValueError without a reason, or if no such user has the `permission`."""
    if not options["reason"] or not options["reason"].strip():
        raise ValueError("Give a reason with --reason TEXT. It is stored with each row.")
    by = options["by"] or ""
    users = get_user_model()._default_manager
    user: Any = None if "\0" in by else users.filter(**{get_user_model().USERNAME_FIELD: by}).first()
    if user is None:
        raise ValueError(f"--by must be the name of a user of this site, not {options['by']!r:.80}.")
    if not user.has_perm(permission):
        raise ValueError(f"--by must be a user with the permission {permission}. {by!r:.80} does not have it.")
    found: AbstractBaseUser = user
    return found


def as_table(groups: Sequence[Any]) -> Table:
    """Return a table of groups. Texts are aligned left, numbers right."""
    columns = {name.replace("_", " "): value for name, value in groups[0]._asdict().items()}
    table = plain_table(*columns, numbers=[name for name, value in columns.items() if isinstance(value, int)])
    for group in groups:
        table.add_row(*map(str, group))
    return table
