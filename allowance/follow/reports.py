"""What the chain follower tells the other processes: for each source the last good answer, or what fails."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django.db.models import F

from allowance import clock
from allowance.models import SourceReport


def reported(name: str) -> dict[str, Any]:
    """Return the detail that was last reported of a source, so that a process can continue from it."""
    report = SourceReport.objects.filter(pk=name).first()
    return report.detail if report else {}


def report_good(name: str, adapter: str, detail: dict[str, Any]) -> None:
    """Store that a source gave a good answer now."""
    values = {
        "adapter": adapter,
        "detail": detail,
        "good_at": clock.now(),
        "failed_at": None,
        "failures": 0,
        "error": "",
    }
    SourceReport.objects.update_or_create(pk=name, defaults=values)


def report_failure(name: str, adapter: str, error: str, detail: dict[str, Any]) -> None:
    """Store that a source failed now. The time of the last good answer stays."""
    report, _ = SourceReport.objects.get_or_create(pk=name, defaults={"adapter": adapter})
    SourceReport.objects.filter(pk=name).update(
        adapter=adapter,
        detail=detail,
        error=error,
        failures=F("failures") + 1,
        failed_at=report.failed_at or clock.now(),
    )


def forget_other_reports(names: Collection[str]) -> None:
    """Delete the reports of loops that do not run any more. They would stay bad for good."""
    SourceReport.objects.exclude(pk__in=names).delete()
