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
    """The cached numbers of incidents by hotkey, at a version of the incidents of a class.

    They are valid for every window that begins between `since` and the time of the `oldest` incident (None: there is no
    incident). Both times have the form of the database.
    """

    version: int
    since: Any
    oldest: Any
    counts: dict[str, int]


_counted: dict[str, Counted] = {}


def score(incidents: int, executors: int) -> float:
    """Return the score of a miner: minus incidents per executor. 0 is best.

    A miner without executors counts as having one. Python rounds the quotient of two integers correctly, so equal
    ratios have equal scores.
    """
    return -(incidents / (executors or 1)) if incidents else 0.0


def incident_counts(
    executor_class: str, now: dt.datetime, window: dt.timedelta, *, version: int | None
) -> dict[str, int]:
    """Return the number of incidents of each miner in a class since `now - window`, inclusive.

    Incidents dated after `now`, by a host whose clock is ahead, count too. `version` is the version of the incidents of
    the class in the database, None if the class never had one. The result is cached until the version changes or until
    a counted incident leaves the window.
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
    """Return how many incidents of one miner count, by class and type. `incident_counts` says which count."""
    counted = MinerIncident.objects.filter(
        hotkey_ss58address=hotkey, timestamp__gte=now - window, voided_at=None
    ).values_list("executor_class", "type")
    counts: dict[str, dict[str, int]] = {}
    for executor_class, kind, n in counted.annotate(n=Count("pk")).order_by("executor_class", "type"):
        counts.setdefault(executor_class, {})[kind] = n
    return counts
