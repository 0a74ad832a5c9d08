from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from allowance import validation
from allowance.oversight import forgetting
from allowance.oversight.forgetting import Forgotten
from allowance.plumbing.programs import AnsweringCommand
from allowance.types import BadInputError, BlocksInUse, LockTimeout


class Command(AnsweringCommand):
    help = (
        "Forget blocks that were recorded by mistake: delete all blocks from a number on and the manifest syncs at "
        "these blocks, and reverse the voiding that these syncs caused. Routers and the chain follower can run "
        "meanwhile. Afterwards the chain follower can record the correct blocks. Exit code: 0 forgotten, or nothing to "
        "forget; 1 nothing is forgotten, because reservations use these blocks or because other transactions kept the "
        "ledger locked; 2 bad input."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--from", dest="first", type=int, required=True, metavar="N", help="the first block to forget"
        )
        parser.add_argument(
            "--release-held", action="store_true", help="release live reservations that use these blocks"
        )
        parser.add_argument("--dry-run", action="store_true", help="print what would be forgotten, and change nothing")

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            first = validation.block_number(options["first"])
        except BadInputError as error:
            raise CommandError(f"--from: {error}", returncode=2) from error
        refusal: BlocksInUse | None = None
        try:
            if options["dry_run"]:
                found = forgetting.find(first)
                refusal = found.refusal(release_held=options["release_held"])
            else:
                found = forgetting.forget_blocks(first, release_held=options["release_held"])
        except BlocksInUse as error:
            found, refusal = forgetting.find(first), error
        except LockTimeout as error:
            raise CommandError(str(error), returncode=1) from error
        done = not options["dry_run"] and refusal is None
        if options["format"] == "json":
            self.write_json(as_json(found, done=done))
        elif refusal is None:
            self.stdout.write(in_words(found, "Forgot" if done else "Would forget"))
        if refusal:
            raise CommandError(str(refusal), returncode=1)


def as_json(found: Forgotten, *, done: bool) -> dict[str, object]:
    return {
        "from": found.first,
        "forgotten": done,
        "blocks": found.blocks,
        "manifest_syncs": found.syncs,
        "reservations": {"held": found.held, "expired": found.expired, "spent": found.spent},
    }


def in_words(found: Forgotten, verb: str) -> str:
    ended = f", and {'release' if verb.startswith('Would') else 'released'} {len(found.held)} live reservations"
    return (
        f"{verb} {found.blocks} blocks and {found.syncs} manifest syncs from block {found.first} on"
        f"{ended if found.held else ''}."
    )
