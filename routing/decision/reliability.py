"""The reliability of miners: their scores, from the incidents that count."""

from __future__ import annotations

import datetime as dt
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from django.db.models import Count, Min, QuerySet

from allowance.plumbing.compiled import Compiled, parameter
from routing.models import MinerIncident


class Counted(NamedTuple):
    """The cached numbers of incidents by hotkey, at a version of the incidents of a class.

    They are valid for every window that begins between `since` and the time of the `oldest` incident (None: there is no
    incident).
    """

    version: int
    since: dt.datetime
    oldest: dt.datetime | None
    counts: dict[str, int]


_counted: dict[str, Counted] = {}


def scores(incidents: npt.NDArray[np.int64], executors: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the scores of miners: minus incidents per executor. 0 is best.

    A miner without executors counts as having one. A quotient of two integers is rounded correctly, so equal ratios
    have equal scores.
    """
    rated: npt.NDArray[np.float64] = 0.0 - incidents / np.maximum(executors, 1)
    return rated


def score(incidents: int, executors: int) -> float:
    """Return the score of one miner."""
    return float(scores(np.array(incidents), np.array(executors)))


def _counting() -> QuerySet[Any, Any]:
    counted = MinerIncident.objects.filter(
        executor_class=parameter(MinerIncident, "executor_class"),
        timestamp__gte=parameter(MinerIncident, "timestamp", "since"),
        voided_at=None,
    )
    return counted.order_by().values_list("hotkey_ss58address").annotate(Count("pk"), Min("timestamp"))


COUNTS = Compiled(_counting, prepare=False)


def incident_counts(
    executor_class: str, now: dt.datetime, window: dt.timedelta, *, version: int | None
) -> dict[str, int]:
    """Return the number of incidents of each miner in a class since `now - window`, inclusive.

    Incidents dated after `now`, by a host whose clock is ahead, count too. `version` is the version of the incidents of
    the class in the database, None if the class never had one. The result is cached until the version changes or until
    a counted incident leaves the window.
    """
    since = now - window
    known = _counted.get(executor_class)
    if known and known.version == version and known.since <= since and not (known.oldest and known.oldest < since):
        return known.counts
    rows = COUNTS.fetch(executor_class=executor_class, since=since)
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
