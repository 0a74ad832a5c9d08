from __future__ import annotations

from typing import Any

from allowance.interface import clock, validation
from routing.management.voiding import Selected, VoidingCommand, add_stretch, chosen
from routing.models import MinerIncident
from routing.types import MinerIncidentType
from routing.upkeep.voiding import VOIDED_AT_ONCE, groups, void_for


class Command(VoidingCommand):
    help = (
        "Void incidents permanently. They stay in the list, but no pick counts them any more. The user and the reason "
        "are stored with each incident and in the admin's log. "
        "Exit code: 0 voided, or counted with --dry-run; 1 there is no matching incident to void; 2 bad input, or not "
        "confirmed; 3 other transactions kept a class locked (run it again: incidents are voided "
        f"{VOIDED_AT_ONCE} at a time, and those voided so far stay voided)."
    )
    noun = "incident"
    permission = "routing.void_incidents"

    def add_which(self, which: Any) -> None:
        add_stretch(which, "happened")
        which.add_argument("--miner", metavar="HOTKEY")
        which.add_argument("--executor-class", metavar="CLASS")
        which.add_argument("--type", choices=[*MinerIncidentType])

    def selected(self, options: dict[str, Any]) -> Selected:
        which = chosen(
            options,
            {
                "miner": ("hotkey_ss58address", validation.hotkey),
                "executor_class": ("executor_class", validation.executor_class),
                "type": ("type", str),
            },
        )
        matching = MinerIncident.objects.filter(**which)
        found = groups(matching)
        return Selected(
            found,
            sum(group.incidents for group in found),
            matching.filter(voided_at__isnull=False).count(),
            lambda user, reason: void_for(matching, user, reason=reason, now=clock.now()),
        )
