"""The state of routing at a moment: all findings, and the miners with the most work."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from routing.watch.findings import Finding, Level, own_limits
from routing.watch.measures import MEASURES, Hour, Work


@dataclass(frozen=True, slots=True)
class Status:
    """The findings at a moment, the worst first, and the miners that got the most work in the hour before it."""

    at: dt.datetime
    findings: tuple[Finding, ...]
    most_jobs: tuple[Work, ...]
    most_seconds: tuple[Work, ...]

    @property
    def level(self) -> Level:
        """The level of the worst finding; INFO counts as OK."""
        worst = self.findings[0].level
        return Level.OK if worst is Level.INFO else worst

    @property
    def sentence(self) -> str:
        """One line that names the findings that are not OK."""
        named = self._titles(lambda level: level not in {Level.OK, Level.INFO})
        if named:
            return f"{len(named)} of {len(self.findings)} findings need attention: {', '.join(named)}."
        to_know = self._titles(lambda level: level is Level.INFO)
        return " ".join(["No problem was found.", *([f"Note: {', '.join(to_know)}."] if to_know else [])])

    def _titles(self, which: Callable[[Level], bool]) -> Sequence[str]:
        return [finding.title for finding in self.findings if which(finding.level)]


def status(now: dt.datetime) -> Status:
    """Return the state of routing at `now`. Raises ImproperlyConfigured if ROUTING_STATUS_LIMITS is invalid."""
    hour, own = Hour(now), own_limits(MEASURES)
    findings = sorted((each.find(hour, own) for each in MEASURES.values()), key=lambda found: -found.level.badness)
    return Status(now, tuple(findings), tuple(hour.most_jobs), tuple(hour.most_seconds))
