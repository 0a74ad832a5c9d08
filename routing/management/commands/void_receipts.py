from __future__ import annotations

from typing import Any

from allowance.interface import clock, validation
from receipts.interface import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt, Receipt
from routing.management.voiding import Selected, VoidingCommand, add_stretch, chosen
from routing.upkeep.voiding import VOIDED_AT_ONCE, receipt_groups, void_receipts_for

KINDS: dict[str, type[Receipt]] = {
    "started": JobStartedReceipt,
    "accepted": JobAcceptedReceipt,
    "finished": JobFinishedReceipt,
}


class Command(VoidingCommand):
    help = (
        "Void receipts permanently. They stay in the list, but no pick counts them any more. The user and the reason "
        "are stored with each receipt and in the admin's log. "
        "Exit code: 0 voided, or counted with --dry-run; 1 there is no matching receipt to void; 2 bad input, or not "
        "confirmed; 3 other transactions kept receipts locked (run it again: receipts are voided "
        f"{VOIDED_AT_ONCE} at a time, and those voided so far stay voided)."
    )
    noun = "receipt"
    permission = "router_receipts.void_receipts"

    def add_which(self, which: Any) -> None:
        which.add_argument(
            "--kind",
            choices=KINDS,
            action="append",
            help="the kind of receipt to void (repeatable); by default started and accepted",
        )
        which.add_argument("--job", metavar="UUID")
        which.add_argument("--miner", metavar="HOTKEY")
        which.add_argument("--validator", metavar="HOTKEY")
        add_stretch(which, "dated")

    def selected(self, options: dict[str, Any]) -> Selected:
        which = chosen(
            options,
            {
                "job": ("job_uuid", validation.job_uuid),
                "miner": ("miner_hotkey", validation.hotkey),
                "validator": ("validator_hotkey", validation.hotkey),
            },
        )
        kinds = {*(options["kind"] or ("started", "accepted"))}
        matching = {kind: model._default_manager.filter(**which) for kind, model in KINDS.items() if kind in kinds}
        found = receipt_groups(matching)
        return Selected(
            found,
            sum(group.receipts for group in found),
            sum(rows.filter(voided_at__isnull=False).count() for rows in matching.values()),
            lambda user, reason: void_receipts_for(matching.values(), user, reason=reason, now=clock.now()),
        )
