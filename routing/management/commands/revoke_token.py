from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from allowance.interface import BadInputError
from allowance.plumbing.programs import AnsweringCommand
from routing.access import tokens
from routing.models import AccessToken


class Command(AnsweringCommand):
    help = (
        "Revoke tokens. A revoked token gives no access, and sockets that it opened are closed. To replace a token: "
        "issue another one with the same name, give it to the client, then revoke the old one with --keep-newest. "
        "Without --keep-newest all live tokens of the name are revoked, including the newest. "
        "Exit code: 0 revoked, 1 there is no such live token, 2 bad input."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name_or_id", help="revoke all tokens of this name, or the token with this id")
        parser.add_argument(
            "--keep-newest", action="store_true", help="keep the newest token of the name for each scope"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        which: str = options["name_or_id"]
        try:
            revoked = tokens.revoke(which, keep_newest=options["keep_newest"])
        except BadInputError as error:
            raise CommandError(str(error), returncode=2) from error
        kept = tokens.live_of(which) if options["keep_newest"] else []
        if options["format"] == "json":
            told = {"revoked": revoked, **({"kept": kept} if options["keep_newest"] else {})}
            self.write_json({name: [tokens.as_json(row) for row in rows] for name, rows in told.items()})
        else:
            for row in revoked:
                self.stdout.write(f"{tokens.described(row)}, is revoked.")
            for row in kept:
                self.stdout.write(f"{tokens.described(row)}, is kept.")
        if not revoked and kept:
            problem = f"No token of {which!r} was revoked: each live one is the newest for one of its scopes."
            raise CommandError(problem, returncode=1)
        if not revoked:
            live = AccessToken.objects.filter(tokens.live_at(timezone.now()))
            names = live.order_by("name").values_list("name", flat=True).distinct()
            raise CommandError(
                f"No token of {which!r} is live. Live tokens: {', '.join(names) or 'none'}.", returncode=1
            )
