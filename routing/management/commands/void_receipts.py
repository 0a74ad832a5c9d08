from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import UUID

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from allowance.connections import renew_connection
from allowance.programs import AnsweringCommand
from receipts.models import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt, Receipt
from receipts.types import BadReceiptError, ReceiptAlreadyVoided
from receipts.voiding import NAME_LENGTH, REASON_LENGTH, void_receipt, words

KINDS: dict[str, type[Receipt]] = {
    "started": JobStartedReceipt,
    "accepted": JobAcceptedReceipt,
    "finished": JobFinishedReceipt,
}


class Command(AnsweringCommand):
    help = (
        "Void receipts: from the next pick on they count as if they were not there. They are kept, with the name and "
        "the reason, and this can't be taken back. Narrow down which: by job, miner, validator or time, all of those "
        "that are given. Exit code: 0 voided, 1 no such receipt is left to void, 2 bad input."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--kind", choices=KINDS, action="append", help="started and accepted, if none is given")
        parser.add_argument("--job", metavar="UUID")
        parser.add_argument("--miner", metavar="HOTKEY")
        parser.add_argument("--validator", metavar="HOTKEY")
        parser.add_argument("--since", metavar="TIME", help="dated then or later: ISO 8601 with an offset")
        parser.add_argument("--until", metavar="TIME", help="dated before that")
        parser.add_argument("--by", required=True, metavar="NAME", help="who voids them")
        parser.add_argument("--reason", required=True)
        parser.add_argument("--dry-run", action="store_true", help="list what would be voided, and void nothing")

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            which = chosen(options)
            by, reason = (
                words(options["by"], "a name", NAME_LENGTH),
                words(options["reason"], "a reason", REASON_LENGTH),
            )
        except ValueError as error:
            raise CommandError(str(error), returncode=2) from error
        tables = [KINDS[kind]._default_manager for kind in options["kind"] or ("started", "accepted")]
        receipts = [receipt for table in tables for receipt in table.filter(voided_at=None, **which).order_by("pk")]
        found = 0
        for receipt in receipts:
            renew_connection()
            found += self.void(receipt, by, reason, dry_run=options["dry_run"])
        if not found:
            raise CommandError("No receipt that is not voided yet is like that.", returncode=1)
        self.stdout.write(f"{'To void' if options['dry_run'] else 'Voided'}: {found}.")

    def void(self, receipt: Receipt, by: str, reason: str, *, dry_run: bool) -> bool:
        """Void a receipt, and tell whether it was not voided meanwhile."""
        try:
            if not dry_run:
                void_receipt(receipt, by=by, reason=reason, now=timezone.now())
        except ReceiptAlreadyVoided as error:
            self.stderr.write(str(error))
            return False
        at = receipt.timestamp.isoformat()
        self.stdout.write(f"{receipt}, miner {receipt.miner_hotkey}, validator {receipt.validator_hotkey}, {at}")
        return True


def chosen(options: dict[str, Any]) -> dict[str, object]:
    """Return the filter that options ask for. Raises ValueError if they name nothing, or something bad."""
    which: dict[str, object] = {}
    if options["job"]:
        which["job_uuid"] = UUID(options["job"])
    for option in ("miner", "validator"):
        if options[option]:
            which[f"{option}_hotkey"] = options[option]
    for option, lookup in (("since", "timestamp__gte"), ("until", "timestamp__lt")):
        if options[option]:
            which[lookup] = moment(options[option])
    if not which:
        raise BadReceiptError("Say which: --job, --miner, --validator, --since or --until.")
    return which


def moment(text: str) -> dt.datetime:
    """Return the time that a text tells."""
    found = parse_datetime(text)
    if found is None or found.utcoffset() is None:
        raise BadReceiptError(f"A time is ISO 8601 with an offset, as 2026-01-01T12:00:00+00:00, not {text!r:.80}.")
    return found
