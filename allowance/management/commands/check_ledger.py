from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from allowance.audit import check_ledger
from allowance.models import Account, Reservation


class Command(BaseCommand):
    help = (
        "Recompute every balance from blocks, manifests and reservations, and print where the ledger differs. "
        "Exit code: 0 clean (or repaired), 1 differences."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--repair", action="store_true", help="rewrite the balances that differ, under their locks")
        parser.add_argument("--format", choices=["text", "json"], default="text")

    def handle(self, *_args: Any, **options: Any) -> None:
        repair: bool = options["repair"]
        found = list(check_ledger(repair=repair))
        left = list(check_ledger()) if repair else found
        if options["format"] == "json":
            report = {
                "accounts": Account.objects.count(),
                "reservations": Reservation.objects.count(),
                "differences": [asdict(difference) for difference in found],
                "left": len(left),
            }
            self.stdout.write(json.dumps(report))
        else:
            for difference in found:
                self.stdout.write(str(difference))
            self.stdout.write(
                f"{Account.objects.count()} accounts, {Reservation.objects.count()} reservations: "
                + (f"{len(found)} differences" if found else "the ledger is what its history says")
                + (f", {len(left)} left after the repair." if repair else ".")
            )
        if left:
            raise SystemExit(1)
