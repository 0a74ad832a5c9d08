"""The numbers of incidents over time, by type and by miner, and the export of all incidents as CSV."""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import Count, Q, QuerySet

from allowance.plumbing.buckets import UtcHour
from allowance.plumbing.database import database
from routing.decision.reliability import score
from routing.models import DecisionRecord, MinerIncident
from routing.types import MinerIncidentType

Incidents = QuerySet[MinerIncident, Any]

# Reads one index entry for each hotkey; DISTINCT would read all rows.
HOTKEYS = """
    WITH RECURSIVE each_one(hotkey) AS (
        SELECT MIN(hotkey_ss58address) FROM routing_minerincident
        UNION ALL
        SELECT (SELECT MIN(hotkey_ss58address) FROM routing_minerincident WHERE hotkey_ss58address > hotkey)
        FROM each_one WHERE hotkey IS NOT NULL
    )
    SELECT hotkey FROM each_one WHERE hotkey IS NOT NULL
"""

COLUMNS = {
    "id": "pk",
    "timestamp": "timestamp",
    "type": "type",
    "hotkey": "hotkey_ss58address",
    "job_uuid": "job_uuid",
    "executor_class": "executor_class",
    "executors": "executors",
    "voided_at": "voided_at",
    "voided_by": "voided_by",
    "void_reason": "void_reason",
}
"""The columns of the CSV, and the field of each."""


class Stretch(NamedTuple):
    """A period up to now, in `steps` whole hours or days of UTC. The last step is not over yet."""

    title: str
    steps: int
    bucket: type[UtcHour]

    def beginnings(self, now: dt.datetime) -> list[dt.datetime]:
        """Return the start of each step."""
        hour = now.astimezone(dt.UTC).replace(minute=0, second=0, microsecond=0)
        last = hour.replace(hour=0) if self.bucket.unit == "day" else hour
        return [last - dt.timedelta(**{f"{self.bucket.unit}s": ago}) for ago in reversed(range(self.steps))]

    def of(self, incidents: Incidents, now: dt.datetime) -> Incidents:
        """Return the incidents of this period, including those that a host with a faster clock dated later."""
        return incidents.filter(timestamp__gte=self.beginnings(now)[0])

    def labels(self, now: dt.datetime) -> list[str]:
        """Return the label of each step."""
        return [f"{at:%Y-%m-%d}" if self.bucket.unit == "day" else f"{at:%m-%d %H:00}" for at in self.beginnings(now)]


def over_time(incidents: Incidents, stretch: Stretch, now: dt.datetime) -> dict[str, list[int]]:
    """Return the number of incidents in each step, by the label of the type. All `incidents` must be in the stretch.

    An incident that a host with a faster clock dated later counts in the last step.
    """
    place = {at: i for i, at in enumerate(stretch.beginnings(now))}
    counted = {kind.label: [0] * stretch.steps for kind in MinerIncidentType}
    rows = incidents.order_by().values_list(stretch.bucket("timestamp"), "type").annotate(Count("pk"))
    for at, kind, number in rows:
        counted[MinerIncidentType(kind).label][place.get(at, -1)] += number
    return counted


def worst_miners(incidents: Incidents, limit: int) -> dict[tuple[str, str], float]:
    """Return the incidents per executor by hotkey and executor class, for the `limit` pairs that have the most.

    Each incident is divided by the miner's executor count at the time. If this count has not changed since, the result
    is the negated score. A missing or zero executor count counts as 1, as in the score.
    """
    per_executor: dict[tuple[str, str], float] = defaultdict(float)
    # Class first: SQLite then groups the rows that it found by time or class. Otherwise it reads all rows by hotkey.
    rows = incidents.order_by().values_list("executor_class", "hotkey_ss58address", "executors").annotate(Count("pk"))
    for executor_class, hotkey, executors, number in rows:
        per_executor[hotkey, executor_class] -= score(number, executors)
    return dict(sorted(per_executor.items(), key=lambda item: (-item[1], item[0]))[:limit])


def hotkeys(beginning: str) -> list[str]:
    """Return the hotkeys that have incidents and start with `beginning`."""
    with database().cursor() as cursor:
        cursor.execute(HOTKEYS)
        return [hotkey for (hotkey,) in cursor.fetchall() if hotkey.startswith(beginning)]


def decisions(incidents: Iterable[MinerIncident]) -> dict[tuple[UUID, str], int]:
    """Return the id of the newest decision that sent the job of each incident to its miner, by job and hotkey."""
    jobs = {incident.job_uuid for incident in incidents}
    records = DecisionRecord.objects.filter(job_uuid__in=jobs).exclude(miner="").order_by("at", "pk")
    return {(job, miner): pk for job, miner, pk in records.values_list("job_uuid", "miner", "pk") if job}


def newest_first(incidents: Incidents, size: int) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the COLUMNS of all incidents, newest first, `size` rows at a time. Each batch is read when requested.

    No cursor stays open between batches, so each may be read in another thread, and the caller may stop at any time.
    """
    rows = incidents.order_by("-timestamp", "-pk").values_list(*COLUMNS.values())
    some = list(rows[:size])
    while some:
        yield some
        pk, timestamp, *_ = some[-1]
        some = list(rows.filter(Q(timestamp__lt=timestamp) | Q(pk__lt=pk), timestamp__lte=timestamp)[:size])


def as_csv(incidents: Incidents, size: int = 2000) -> Iterator[str]:
    """Yield the incidents as CSV text, newest first. The header comes before any row is read."""
    yield _lines([tuple(COLUMNS)])
    for rows in newest_first(incidents, size):
        yield _lines(tuple(map(_cell, row)) for row in rows)


def _lines(rows: Iterable[tuple[object, ...]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _cell(value: object) -> object:
    """Return the content of a cell. A text that begins like a formula is quoted, so that no spreadsheet runs it."""
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).isoformat()
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
