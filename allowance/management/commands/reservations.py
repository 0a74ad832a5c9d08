from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from allowance import allowance, clock
from allowance.locks import reading_transaction
from allowance.models import Reservation, held_at
from allowance.plumbing.console import plain_table
from allowance.plumbing.programs import AnsweringCommand
from allowance.types import ReservationException


class Command(AnsweringCommand):
    help = (
        "List the live reservations, the next to expire first. With --spend or --release, end a reservation instead. "
        "Exit code: 0 done, 1 the reservation is not held."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        end = parser.add_mutually_exclusive_group()
        end.add_argument("--spend", type=int, metavar="ID", help="spend this reservation")
        end.add_argument("--release", type=int, metavar="ID", help="release this reservation")

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            if options["spend"] is not None:
                allowance().spend_allowance(options["spend"])
                self.report(options, options["spend"], "spent")
            elif options["release"] is not None:
                allowance().undo_allowance_reservation(options["release"])
                self.report(options, options["release"], "released")
            else:
                with reading_transaction():
                    self.list_live(options["format"])
        except ReservationException as error:
            self.stderr.write(str(error))
            raise SystemExit(1) from error

    def report(self, options: dict[str, Any], pk: int, end: str) -> None:
        if options["format"] == "json":
            self.write_json({"id": pk, "state": end})
        else:
            self.stdout.write(f"Reservation {pk} is {end}.")

    def list_live(self, form: str) -> None:
        now = clock.now()
        live = Reservation.objects.filter(held_at(now)).select_related("account").order_by("expires_at", "pk")
        if form == "json":
            for row in live.iterator():
                self.write_json(
                    {
                        "id": row.pk,
                        "miner": row.account.miner_id,
                        "executor_class": row.account.executor_class,
                        "job_uuid": row.job_uuid and str(row.job_uuid),
                        "blocks": row.blocks,
                        "created_at": row.created_at.isoformat(),
                        "expires_at": row.expires_at.isoformat(),
                    }
                )
            return
        table = plain_table("id", "miner", "executor class", "job", "blocks", "expires in")
        for row in live.iterator():
            table.add_row(
                str(row.pk),
                row.account.miner_id,
                row.account.executor_class,
                str(row.job_uuid or ""),
                str(len(row.blocks)),
                f"{(row.expires_at - now).total_seconds():.0f} s",
            )
        if table.row_count:
            self.console.print(table)
        else:
            self.stdout.write("No live reservations.")
