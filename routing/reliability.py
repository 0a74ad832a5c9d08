"""Incidents, and what they do to a miner's score."""

from __future__ import annotations

import datetime as dt
from uuid import UUID

from django.db import connection

from allowance import validation
from allowance.types import BadInputError
from routing.models import MinerIncident
from routing.types import MinerIncidentType

INCIDENT_COUNTS = f"""
    SELECT hotkey_ss58address, COUNT(*)
    FROM {connection.ops.quote_name(MinerIncident._meta.db_table)}
    WHERE executor_class = %(executor_class)s AND timestamp >= %(since)s
    GROUP BY hotkey_ss58address
"""  # noqa: S608 (only our table's name is filled in)


def score(incidents: int, executors: int) -> float:
    """Return the reliability of a miner: minus incidents per executor, 0 at best.

    Without executors it counts as having one. Whole numbers divide with correct rounding, so equal ratios score equal.
    """
    return -(incidents / (executors or 1)) if incidents else 0.0


def incident_counts(executor_class: str, now: dt.datetime, window: dt.timedelta) -> dict[str, int]:
    """Return how many incidents each miner had in a class since the `window` before `now` began, its edge inside.

    One that a host with a faster clock dated later than `now` counts too.
    """
    parameters = {
        "executor_class": executor_class,
        "since": connection.ops.adapt_datetimefield_value(now - window),
    }
    with connection.cursor() as cursor:
        cursor.execute(INCIDENT_COUNTS, parameters)
        return dict(cursor.fetchall())


def record_incident(
    *, incident_type: str, hotkey: str, job_uuid: UUID | str, executor_class: str, timestamp: dt.datetime
) -> None:
    """Record an incident. A second one of the same miner and job changes nothing; raises ValueError for bad input."""
    if incident_type not in MinerIncidentType.values:
        raise BadInputError(
            f"Unknown incident type {incident_type!r:.80}; there are: {', '.join(MinerIncidentType.values)}."
        )
    MinerIncident.objects.bulk_create(
        [
            MinerIncident(
                type=MinerIncidentType(incident_type),
                timestamp=validation.timestamp(timestamp),
                hotkey_ss58address=validation.hotkey(hotkey),
                job_uuid=validation.job_uuid(job_uuid),
                executor_class=validation.executor_class(executor_class),
            )
        ],
        ignore_conflicts=True,
    )
