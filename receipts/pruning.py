"""Which receipts are past use: written so long ago that nobody asks for them, and about jobs that are over."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.db.models import Exists, OuterRef, Q, QuerySet

from receipts.models import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt

Old = tuple[QuerySet[Any], Q]
"""Rows that are old, and what else must hold for those of them that are past use."""


def over_since(when: dt.datetime, job: str) -> Q:
    """Select the rows about whose job, its uuid in the column `job`, no receipt was valid at `when` or later."""
    valid = {"job_uuid": OuterRef(job), "valid_until__gte": when}
    started, accepted = JobStartedReceipt.objects.filter(**valid), JobAcceptedReceipt.objects.filter(**valid)
    return Q(~Exists(started), ~Exists(accepted))


def accepted(before: dt.datetime) -> Old:
    """Return the accepted receipts that were over `before` that time."""
    return JobAcceptedReceipt.objects.filter(valid_until__lt=before), Q()


def started(before: dt.datetime) -> Old:
    """Return the started receipts that were over `before` that time, and the accepted ones of their jobs too.

    An accepted receipt keeps a job ongoing in the class that only the started one tells.
    """
    valid = JobAcceptedReceipt.objects.filter(job_uuid=OuterRef("job_uuid"), valid_until__gte=before)
    return JobStartedReceipt.objects.filter(valid_until__lt=before), Q(~Exists(valid))


def finished(unused: Q, before: dt.datetime) -> Old:
    """Return the finished receipts written `before` that time whose jobs are over, and `unused` otherwise.

    As long as another receipt is valid, or something is held for the job, this one says that it is not ongoing.
    """
    return JobFinishedReceipt.objects.filter(timestamp__lt=before), over_since(before, "job_uuid") & unused
