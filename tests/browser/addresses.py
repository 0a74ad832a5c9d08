"""Where the pages for operators are, once there is some of everything."""

from __future__ import annotations

from urllib.parse import urlencode

from django.contrib.admin.utils import quote

from routing.models import DecisionRecord, MinerIncident
from routing.pages import MENU
from routing.types import Outcome
from tests.browser.scene import NASTY
from tests.browser.visits import page
from tests.ledgers import CLASS

WHAT_IF = {"executor_class": CLASS, "seconds": 300, "minimum_wei": 1, "hours": 2.5, "exclude": "bert"}


def pages() -> dict[str, str]:
    """Return the address of every page by what to call it."""
    incident = MinerIncident.objects.filter(voided_at=None).order_by("timestamp")[0]
    voided = MinerIncident.objects.filter(voided_at__isnull=False)[0]
    kept = DecisionRecord.objects.filter(candidates__isnull=False)
    routed, refused = kept.get(outcome=Outcome.ROUTED), kept.exclude(outcome=Outcome.ROUTED).get()
    return {
        "the admin's index": page("index"),
        "the index of routing": page("app_list", "routing"),
        **{entry.title: page(entry.name) for entry in MENU},
        "the board, filled in": f"{page('routing_board')}?{urlencode(WHAT_IF)}",
        "the board, filled in wrongly": f"{page('routing_board')}?seconds=0",
        **{f"the page of {hotkey}": page("routing_miner", quote(hotkey)) for hotkey in ("anna", NASTY[0])},
        "a route": page("routing_decisionrecord_change", routed.pk),
        "a refusal": page("routing_decisionrecord_change", refused.pk),
        "an incident": page("routing_minerincident_change", incident.pk),
        "a voided incident": page("routing_minerincident_change", voided.pk),
        "voiding": page("routing_minerincident_void", incident.pk),
    }
