from __future__ import annotations

from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandParser
from django.db import DatabaseError, transaction

from allowance.models import LedgerCheck
from allowance.oversight.audit import run_check
from allowance.plumbing.connections import renew_connection
from allowance.plumbing.database import alias
from allowance.plumbing.programs import AnsweringCommand


class Command(AnsweringCommand):
    help = (
        "Recompute the derived values of the ledger from its history. Print the differences, and store the result "
        "for the ledger page. Exit code: 0 no differences, or all repaired; 1 differences are left."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--repair", action="store_true", help="correct the values that differ, under locks")

    def handle(self, *_args: Any, **options: Any) -> None:
        check, found = run_check(repair=options["repair"])
        if options["format"] == "json":
            report = {
                "accounts": check.accounts,
                "reservations": check.reservations,
                "differences": [asdict(difference) for difference in found],
                "left": check.left,
            }
            self.write_json(report)
        else:
            for difference in found:
                self.stdout.write(str(difference))
            self.stdout.write(
                f"{check.accounts} accounts, {check.reservations} reservations: "
                + (f"{len(found)} differences" if found else "the ledger agrees with its history")
                + (f", {check.left} left after the repair." if check.repaired else ".")
            )
        self._keep(check)
        if check.left:
            raise SystemExit(1)

    def _keep(self, check: LedgerCheck) -> None:
        """Store the result. If this fails, for example on a full disk, print why. The check itself is still valid."""
        renew_connection()
        try:
            with transaction.atomic(alias()):
                check.save()
        except DatabaseError as error:
            self.stderr.write(f"The check is done, but its result could not be stored for the ledger page: {error}")
