from __future__ import annotations

import json
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from allowance.programs import AnsweringCommand
from allowance.types import BadInputError
from routing import tokens
from routing.models import AccessToken


class Command(AnsweringCommand):
    help = (
        "Revoke all live tokens of a name, or the one of an id: they open nothing any more, and sockets that they "
        "opened are closed. Exit code: 0 revoked, 1 no such token is live, 2 bad input."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name_or_id", help="as issue_token told it")
        parser.add_argument("--format", choices=["text", "json"], default="text")

    def handle(self, *_args: Any, **options: Any) -> None:
        which: str = options["name_or_id"]
        try:
            revoked = tokens.revoke(which)
        except BadInputError as error:
            raise CommandError(str(error), returncode=2) from error
        if options["format"] == "json":
            self.stdout.write(json.dumps({"revoked": [tokens.as_json(row) for row in revoked]}))
        else:
            for row in revoked:
                self.stdout.write(f"{tokens.described(row)}, is revoked.")
        if not revoked:
            live = AccessToken.objects.filter(tokens.live_at(timezone.now()))
            names = live.order_by("name").values_list("name", flat=True).distinct()
            raise CommandError(f"No token of {which!r} is live. Live ones: {', '.join(names) or 'none'}.", returncode=1)
