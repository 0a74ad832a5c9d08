"""The reliability of miners: their scores, from the incidents that count."""

from __future__ import annotations

import datetime as dt
from typing import Any, NamedTuple

from django.db import connection
from django.db.models import Count

from routing.models import MinerIncident

INCIDENT_COUNTS = f"""
    SELECT hotkey_ss58address, COUNT(*), MIN(timestamp)
    FROM {connection.ops.quote_name(MinerIncident._meta.db_table)}
    WHERE executor_class = %(executor_class)s AND timestamp >= %(since)s AND voided_at IS NULL
    GROUP BY hotkey_ss58address
"""  # noqa: S608 (only our table's name is filled in)


class Counted(NamedTuple):
    """Incidents by hotkey at a version, right for every window that begins between `since` and the `oldest` of them.

    The instants are as the database has them. Without an incident there is no oldest.
    """

    version: int
    since: Any
    oldest: Any
    counts: dict[str, int]


_counted: dict[str, Counted] = {}


def score(incidents: int, executors: int) -> float:
    """Return the reliability of a miner: minus incidents per executor, 0 at best.

    Without executors it counts as having one. Whole numbers divide with correct rounding, so equal ratios score equal.
    """
    return -(incidents / (executors or 1)) if incidents else 0.0


def incident_counts(
    executor_class: str, now: dt.datetime, window: dt.timedelta, *, version: int | None
) -> dict[str, int]:
    """Return how many incidents each miner had in a class since the `window` before `now` began, its edge inside.

    One that a host with a faster clock dated later than `now` counts too. `version` is what the incidents of the class
    have in the database, None if nobody ever gave them one. They are counted once: until there is another version, or
    until one of them leaves the window.
    """
    since = connection.ops.adapt_datetimefield_value(now - window)
    known = _counted.get(executor_class)
    if known and known.version == version and known.since <= since and not (known.oldest and known.oldest < since):
        return known.counts
    with connection.cursor() as cursor:
        cursor.execute(INCIDENT_COUNTS, {"executor_class": executor_class, "since": since})
        rows = cursor.fetchall()
    counts = {hotkey: count for hotkey, count, _ in rows}
    if version is not None:
        oldest = min((timestamp for *_, timestamp in rows), default=None)
        _counted[executor_class] = Counted(version, since, oldest, counts)
    return counts


def incidents_by_type(hotkey: str, now: dt.datetime, window: dt.timedelta) -> dict[str, dict[str, int]]:
    """Return the incidents of one miner that count, as `incident_counts` does, by class and type."""
    counted = MinerIncident.objects.filter(
        hotkey_ss58address=hotkey, timestamp__gte=now - window, voided_at=None
    ).values_list("executor_class", "type")
    counts: dict[str, dict[str, int]] = {}
    for executor_class, kind, n in counted.annotate(n=Count("pk")).order_by("executor_class", "type"):
        counts.setdefault(executor_class, {})[kind] = n
    return counts
