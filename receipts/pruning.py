"""Select the receipts that are no longer needed: old receipts of jobs that are over."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.db.models import Exists, OuterRef, Q, QuerySet

from receipts.models import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt

Old = tuple[QuerySet[Any], Q]
"""Old rows, and the further condition that a row must meet to be deleted."""


def over_since(when: dt.datetime, job: str) -> Q:
    """Select the rows whose job has no receipt that is valid at `when` or later. `job` is the column of its UUID."""
    valid = {"job_uuid": OuterRef(job), "valid_until__gte": when}
    started, accepted = JobStartedReceipt.objects.filter(**valid), JobAcceptedReceipt.objects.filter(**valid)
    return Q(~Exists(started), ~Exists(accepted))


def accepted(before: dt.datetime) -> Old:
    """Return the accepted receipts whose validity ended before the time `before`."""
    return JobAcceptedReceipt.objects.filter(valid_until__lt=before), Q()


def started(before: dt.datetime) -> Old:
    """Return the started receipts whose validity, and that of their jobs' accepted receipts, ended before `before`.

    An accepted receipt keeps a job ongoing in the class that only the started receipt names.
    """
    valid = JobAcceptedReceipt.objects.filter(job_uuid=OuterRef("job_uuid"), valid_until__gte=before)
    return JobStartedReceipt.objects.filter(valid_until__lt=before), Q(~Exists(valid))


def finished(unused: Q, before: dt.datetime) -> Old:
    """Return the finished receipts that were written before `before`, whose jobs are over, and that are `unused`.

    While another receipt of the job is valid, or blocks are held for the job, the finished receipt is needed: it shows
    that the job is not ongoing.
    """
    return JobFinishedReceipt.objects.filter(timestamp__lt=before), over_since(before, "job_uuid") & unused
