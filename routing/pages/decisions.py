"""A decision's page: the decision, its candidates, what happened to the job, and whether a replay agrees."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from routing.log import replay
from routing.log.report import explain, happenings, in_order
from routing.models import DecisionRecord
from routing.pages import SEE_MINER, SEE_RECEIPTS
from routing.pages.lists import Filter
from routing.types import Outcome


class DecidedFilter(Filter):
    """A filter by the last hours or days, which an index serves."""

    title = parameter_name = "time"
    everything = "any time"
    values = (("1", "last hour"), ("24", "last 24 hours"), ("168", "last 7 days"))

    def narrowed(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        return queryset.filter(at__gt=timezone.now() - dt.timedelta(hours=int(value)))


class OutcomeFilter(Filter):
    """A filter by outcome."""

    title = parameter_name = column = "outcome"
    everything = "all outcomes"
    values = tuple((outcome.value, str(outcome.label)) for outcome in Outcome)


def explanation(request: HttpRequest, record: DecisionRecord) -> dict[str, object]:
    """Return what a decision's page shows besides the record, without data that the user may not see elsewhere."""
    (explained,) = explain([record])
    may = request.user.has_perm
    shown = {"incidents": may("routing.view_minerincident"), "receipts": request.user.has_perms(SEE_RECEIPTS)}
    return {
        "explained": explained,
        "fate": explained.fate(timezone.now(), reservations=may("allowance.view_reservation")),
        "candidates": in_order(explained.decision) if explained.decision else [],
        "differences": replay.differences(record),
        "happenings": happenings(record.job_uuid, **shown) if record.job_uuid else [],
        "sees_miner": request.user.has_perms(SEE_MINER),
    }
