from __future__ import annotations

import datetime as dt
import re
import shlex
from typing import Any

from django.core.management.base import CommandError, CommandParser

from allowance.interface import BadInputError
from allowance.plumbing.programs import AnsweringCommand
from routing.access import tokens

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Command(AnsweringCommand):
    help = (
        "Issue a token that gives access to the sockets or the metrics, and print it. The token is printed only once: "
        "it is not stored. To replace a token, issue another one with the same name, and then revoke the old one with "
        "revoke_token NAME --keep-newest. "
        "Exit code: 0 issued, 2 bad input."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        scopes = [scope.value for scope in tokens.Scope]
        parser.add_argument("name", help="the name of the client; several tokens can have the same name")
        parser.add_argument(
            "--scope",
            action="append",
            required=True,
            choices=scopes,
            help="what the token gives access to (repeatable)",
        )
        parser.add_argument("--ttl", default="90d", help="how long the token is valid: 30m, 12h, 90d (the default)")

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            row, token = tokens.issue(options["name"], options["scope"], time_to_live(options["ttl"]))
        except BadInputError as error:
            raise CommandError(str(error), returncode=2) from error
        if options["format"] == "json":
            self.write_json({**tokens.as_json(row), "token": token})
            return
        self.stderr.write(f"{tokens.described(row)}, until {row.expires_at.isoformat()}.", self.style.SUCCESS)
        if older := len(tokens.live_of(row.name)) - 1:
            self.stderr.write(
                f"Older live tokens of this name: {older}. When the client uses the new token, run: "
                f"manage.py revoke_token {shlex.quote(row.name)} --keep-newest"
            )
        self.stdout.write(token)


def time_to_live(text: str) -> dt.timedelta:
    """Return the duration that `text` names, such as 90d. Raises BadInputError."""
    match = re.fullmatch("([0-9]{1,9})([smhd])", text)
    if match is None:
        raise BadInputError(f"--ttl must be a number and a unit ({', '.join(UNITS)}), as in 90d, not {text!r:.80}.")
    return dt.timedelta(**{UNITS[match[2]]: int(match[1])})
