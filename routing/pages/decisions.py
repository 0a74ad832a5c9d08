"""A decision's page: what was decided, of whom, what became of it, and whether it would be decided again."""

from __future__ import annotations

from django.http import HttpRequest
from django.utils import timezone

from routing import replays
from routing.explanations import explain, happenings
from routing.models import DecisionRecord
from routing.report import in_order

SEE_RECEIPTS = tuple(f"receipts.view_job{kind}receipt" for kind in ("started", "accepted", "finished"))


def explanation(request: HttpRequest, record: DecisionRecord) -> dict[str, object]:
    """Return what a decision's page shows besides the record. What the user may not see elsewhere is left out."""
    (explained,) = explain([record])
    may = request.user.has_perm
    shown = {"incidents": may("routing.view_minerincident"), "receipts": request.user.has_perms(SEE_RECEIPTS)}
    return {
        "explained": explained,
        "fate": explained.fate(timezone.now()),
        "candidates": in_order(explained.decision) if explained.decision else [],
        "differences": replays.differences(record),
        "happenings": happenings(record.job_uuid, **shown) if record.job_uuid else [],
        "may_see_miners": may("allowance.view_miner"),
    }
