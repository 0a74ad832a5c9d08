"""Incidents: recorded, voided, forgotten."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet

from allowance.interface import (
    MAX_EXECUTORS,
    Account,
    BadInputError,
    bound_waits,
    ledger_transaction,
    lock_timeout,
    validation,
)
from allowance.plumbing.connections import renew_connection
from allowance.plumbing.errors import RefusedError
from receipts.interface import BadReceiptError, void_by
from routing.metrics import INCIDENTS
from routing.models import IncidentVersion, MinerIncident
from routing.types import MinerIncidentType

VOIDED_AT_ONCE = 500
"""So many incidents are voided in a transaction: whoever reports for their class waits for it."""


class IncidentAlreadyVoided(RefusedError):
    """An incident was voided before, `by` this name and `at` this time."""

    def __init__(self, incident_id: int, by: str, at: dt.datetime) -> None:
        self.incident_id = incident_id
        self.by = by
        self.at = at
        super().__init__(
            f"Incident {incident_id} was voided by {by} at {at:%Y-%m-%d %H:%M:%S %Z}. Nothing is left to do."
        )


def record_incident(
    *,
    incident_type: str,
    hotkey: str,
    job_uuid: UUID | str,
    executor_class: str,
    timestamp: dt.datetime,
    executors: int | None = None,
) -> None:
    """Record an incident, with how many `executors` of the class the miner had (left out: as it declares now).

    A second one of the same miner and job changes nothing.

    Raises ValueError for bad input, LockTimeout if somebody else's transaction with an incident of the class does not
    end in time.
    """
    if incident_type not in tuple(MinerIncidentType):
        raise BadInputError(f"Unknown incident type {incident_type!r:.80}; there are: {', '.join(MinerIncidentType)}.")
    executor_class = validation.executor_class(executor_class)
    hotkey, job_uuid = validation.hotkey(hotkey), validation.job_uuid(job_uuid)
    incident = {
        "type": MinerIncidentType(incident_type),
        "timestamp": validation.timestamp(timestamp),
        "executor_class": executor_class,
        "executors": validation.whole(
            declared(hotkey, executor_class) if executors is None else executors, "The executor count", MAX_EXECUTORS
        ),
    }
    with ledger_transaction():
        bound_waits(lock_timeout())
        # Before the incident, even one that was heard before: it is the lock that puts all reports in one order.
        _draw_version(executor_class)
        _, is_new = MinerIncident.objects.get_or_create(incident, hotkey_ss58address=hotkey, job_uuid=job_uuid)
        if is_new:
            transaction.on_commit(INCIDENTS.labels(incident["type"], executor_class).inc)


def declared(hotkey: str, executor_class: str) -> int:
    """Return how many executors of a class a miner declares; 0 if it never declared any."""
    accounts = Account.objects.filter(miner=hotkey, executor_class=executor_class)
    return accounts.values_list("executors", flat=True).first() or 0


def forget(incidents: QuerySet[MinerIncident]) -> int:
    """Delete incidents, and return how many; for whoever is in a transaction that waits for no other lock."""
    for executor_class in sorted(set(incidents.values_list("executor_class", flat=True))):
        _draw_version(executor_class)
    return incidents.delete()[0]


def void_incident(incident_id: int, *, by: str | None, reason: str | None, now: dt.datetime) -> MinerIncident:
    """Take an incident out of the score, for good, from the next pick of any router on; return it.

    `by` names who does it; that, `reason` and `now` are kept. Raises BadInputError without a name or a reason,
    IncidentAlreadyVoided if somebody did it before, MinerIncident.DoesNotExist if there is none, LockTimeout if others
    report for the class and do not end in time.
    """
    void = void_values(by, reason, now)
    with ledger_transaction():
        # An incident stays in its class. What else it says counts only once it is read under the lock of the class.
        executor_class = MinerIncident.objects.only("executor_class").get(pk=incident_id).executor_class
        for incident in _void_locked(executor_class, [incident_id], void):
            return incident
        incident = MinerIncident.objects.get(pk=incident_id)
        raise IncidentAlreadyVoided(incident_id, incident.voided_by, incident.voided_at or now)


def void_incidents(
    incidents: QuerySet[MinerIncident, Any],
    *,
    by: str | None,
    reason: str | None,
    now: dt.datetime,
    note: Callable[[list[MinerIncident]], object],
) -> Iterator[int]:
    """Void the incidents that there are now, as `void_incident` does, in transactions of VOIDED_AT_ONCE at most.

    Yield after each how many it voided; those that somebody else has voided are left as they are. `note` is called
    within each transaction with what it voids. Raises LockTimeout as `void_incident` does: what was yielded stays.
    """
    void = void_values(by, reason, now)
    by_class = incidents.filter(voided_at=None).order_by("executor_class", "pk").values_list("executor_class", "pk")
    for executor_class, found in groupby(list(by_class), itemgetter(0)):
        pks = [pk for _, pk in found]
        for first in range(0, len(pks), VOIDED_AT_ONCE):
            renew_connection()
            with ledger_transaction():
                voided = _void_locked(executor_class, pks[first : first + VOIDED_AT_ONCE], void)
                note(voided)
            yield len(voided)


def void_values(by: object, reason: object, now: object) -> dict[str, Any]:
    """Return what a void stores. Raises BadInputError for what can't be."""
    try:
        return void_by(by, reason, now)
    except BadReceiptError as error:
        raise BadInputError(str(error)) from error


def _void_locked(executor_class: str, pks: Sequence[int], void: Mapping[str, Any]) -> list[MinerIncident]:
    """Void incidents of a class under its lock, and return them without those that were voided before."""
    bound_waits(lock_timeout())
    _draw_version(executor_class)
    incidents = list(MinerIncident.objects.select_for_update().filter(pk__in=pks, voided_at=None).order_by("pk"))
    MinerIncident.objects.filter(pk__in=[incident.pk for incident in incidents]).update(**void)
    for incident in incidents:
        for name, value in void.items():
            setattr(incident, name, value)
    return incidents


def _draw_version(executor_class: str) -> None:
    """Give the incidents of a class a new version, by which routers learn that what they counted is old."""
    IncidentVersion.objects.bulk_create(
        [IncidentVersion(executor_class=executor_class)],
        update_conflicts=True,
        unique_fields=["executor_class"],
        update_fields=["version"],
    )
