"""Functions that record, void and delete incidents."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
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
from allowance.plumbing.database import alias
from allowance.plumbing.errors import RefusedError
from receipts.interface import BadReceiptError, void_by
from routing.metrics import INCIDENTS
from routing.models import IncidentVersion, MinerIncident
from routing.types import MinerIncidentType


class IncidentAlreadyVoided(RefusedError):
    """An incident was voided before. `by` is the name of the person who did it, `at` is the time."""

    def __init__(self, incident_id: int, by: str, at: dt.datetime) -> None:
        self.incident_id = incident_id
        self.by = by
        self.at = at
        super().__init__(
            f"Incident {incident_id} was voided by {by} at {at:%Y-%m-%d %H:%M:%S %Z}. No further action is needed."
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
    """Record an incident. A second incident of the same miner and job changes nothing.

    `executors` is the number of executors of the class that the miner had. It defaults to the number that the miner
    declares now.

    Raises ValueError for bad input, and LockTimeout if another transaction with an incident of the class does not end
    in time.
    """
    if incident_type not in tuple(MinerIncidentType):
        raise BadInputError(
            f"Unknown incident type {incident_type!r:.80}. The types are: {', '.join(MinerIncidentType)}."
        )
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
        # This comes first, even if the incident is known: its row lock serializes the reports of the class.
        _draw_version(executor_class)
        _, is_new = MinerIncident.objects.get_or_create(incident, hotkey_ss58address=hotkey, job_uuid=job_uuid)
        if is_new:
            transaction.on_commit(INCIDENTS.labels(incident["type"], executor_class).inc, alias())


def declared(hotkey: str, executor_class: str) -> int:
    """Return how many executors of a class a miner declares; 0 if it never declared any."""
    accounts = Account.objects.filter(miner=hotkey, executor_class=executor_class)
    return accounts.values_list("executors", flat=True).first() or 0


def forget(incidents: QuerySet[MinerIncident]) -> int:
    """Delete incidents and return their number.

    Call this in a transaction that waits for no other lock.
    """
    for executor_class in sorted(set(incidents.values_list("executor_class", flat=True))):
        _draw_version(executor_class)
    return incidents.delete()[0]


def void_incident(incident_id: int, *, by: str | None, reason: str | None, now: dt.datetime) -> MinerIncident:
    """Void an incident permanently and return it. Every router ignores the incident from its next pick on.

    `by` is the name of the person. It is stored with `reason` and `now`. Raises BadInputError without a name or a
    reason, IncidentAlreadyVoided if the incident was voided before, MinerIncident.DoesNotExist if it does not exist,
    and LockTimeout if other transactions with incidents of the class do not end in time.
    """
    void = void_values(by, reason, now)
    with ledger_transaction():
        # The class of an incident never changes. Its other columns are valid only if read under the lock of the class.
        executor_class = MinerIncident.objects.only("executor_class").get(pk=incident_id).executor_class
        for incident in void_locked(executor_class, [incident_id], void):
            return incident
        incident = MinerIncident.objects.get(pk=incident_id)
        raise IncidentAlreadyVoided(incident_id, incident.voided_by, incident.voided_at or now)


def void_values(by: object, reason: object, now: object) -> dict[str, Any]:
    """Return the values that a void stores. Raises BadInputError for values that can't be stored."""
    try:
        return void_by(by, reason, now)
    except BadReceiptError as error:
        raise BadInputError(str(error)) from error


def void_locked(executor_class: str, pks: Sequence[int], void: Mapping[str, Any]) -> list[MinerIncident]:
    """Void incidents of a class under its lock, and return those that were not voided before."""
    bound_waits(lock_timeout())
    _draw_version(executor_class)
    incidents = list(MinerIncident.objects.select_for_update().filter(pk__in=pks, voided_at=None).order_by("pk"))
    MinerIncident.objects.filter(pk__in=[incident.pk for incident in incidents]).update(**void)
    for incident in incidents:
        for name, value in void.items():
            setattr(incident, name, value)
    return incidents


def _draw_version(executor_class: str) -> None:
    """Give the incidents of a class a new version, which tells routers that their cached counts are out of date.

    This locks the row of the class until the transaction ends.
    """
    IncidentVersion.objects.bulk_create(
        [IncidentVersion(executor_class=executor_class)],
        update_conflicts=True,
        unique_fields=["executor_class"],
        update_fields=["version"],
    )
