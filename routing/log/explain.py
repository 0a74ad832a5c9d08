"""Explanations of jobs from the records: the decisions, their reservations, the incidents and the receipts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from uuid import UUID

from allowance.interface import Reservation, ReservationState
from allowance.plumbing.console import to_the_second
from receipts.interface import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt, Voidable
from routing.decision.model import Decision, Gate, Policy, summarise
from routing.log import report
from routing.log.records import load
from routing.models import DecisionRecord, MinerIncident, Rejection
from routing.types import MinerIncidentType


class Explanation(NamedTuple):
    """The record of a decision, the decision itself and its reservation.

    `decision` is None if its candidates were not kept. `reservation` is None if nothing was reserved or if it was
    pruned.
    """

    record: DecisionRecord
    decision: Decision | None
    reservation: Reservation | None

    def fate(self, now: dt.datetime, *, reservations: bool = True) -> str:
        """Return in one line where the job went, or why it was refused, and the state of its reservation at `now`.

        If `reservations` is False, the line has only the id of the reservation.
        """
        record = self.record
        if not record.miner:
            return str(self.decision.refusal) if self.decision else f"Refused: {record.get_outcome_display()}."
        if record.reservation_id is None:
            return f"A fixed route to {record.miner}: no allowance needed."
        routed = f"Routed to {record.miner}, rank {record.rank}, score {record.score:g}"
        if not reservations:
            return f"{routed}; reservation {record.reservation_id}."
        if self.reservation is None:
            return f"{routed}; reservation {record.reservation_id} is no longer stored."
        blocks = self.reservation.blocks
        paid = f"{len(blocks)} blocks ({blocks[0]} to {blocks[-1]})"
        return f"{routed}; reservation {record.reservation_id} of {paid} {_by_now(self.reservation, now)}."

    @property
    def summary(self) -> str:
        """One line: how many miners could take the job, and what the others failed at."""
        hours, counts = self.record.window_hours, {Gate(gate): n for gate, n in self.record.counts.items()}
        policy = None if hours is None else Policy(self.record.minimum_wei, dt.timedelta(hours=hours))
        return summarise(policy, self.record.asked, counts)

    def as_json(self, now: dt.datetime) -> dict[str, object]:
        """Return the explanation as JSON values. The candidates have the form of the dry run, or are None."""
        record = self.record
        return {
            "id": record.pk,
            "uuid": record.job_uuid and str(record.job_uuid),
            "at": record.at.isoformat(),
            "executor_class": record.executor_class,
            "seconds": record.seconds,
            "block": record.block,
            "minimum_collateral_wei": None if record.window_hours is None else str(record.minimum_wei),
            "window_hours": record.window_hours,
            "outcome": record.outcome,
            "sentence": self.fate(now),
            "summary": self.summary,
            "hotkey": record.miner or None,
            "rank": record.rank,
            "score": record.score,
            "reservation": record.reservation_id,
            "reservation_state": self.reservation and self.reservation.state_at(now).value,
            "counts": record.counts,
            "microseconds": record.microseconds,
            "waited_us": record.waited_us,
            "candidates": self.decision and report.candidates_as_json(self.decision),
        }


class Happening(NamedTuple):
    """Something that was recorded about a job, and its time."""

    at: dt.datetime
    sentence: str


def of_job(job_uuid: UUID) -> list[Explanation]:
    """Return the explanations of all decisions on a job, the oldest first."""
    return explain(DecisionRecord.objects.filter(job_uuid=job_uuid).order_by("at", "pk"))


def explain(records: Iterable[DecisionRecord]) -> list[Explanation]:
    """Return the explanations of decisions. One query reads all their reservations."""
    found = list(records)
    made = Reservation.objects.in_bulk([record.reservation_id for record in found if record.reservation_id])
    return [Explanation(r, load(r), made.get(r.reservation_id) if r.reservation_id else None) for r in found]


def happenings(job_uuid: UUID, *, incidents: bool = True, receipts: bool = True) -> list[Happening]:
    """Return the incidents and excused rejections of a job, its receipts, or both, the oldest first."""
    found = [*(_incidents(job_uuid) if incidents else ()), *(_receipts(job_uuid) if receipts else ())]
    return sorted(found, key=lambda happening: happening.at)


def _by_now(reservation: Reservation, now: dt.datetime) -> str:
    state = reservation.state_at(now)
    if state is ReservationState.HELD:
        return f"is held until {to_the_second(reservation.expires_at)}"
    if state is ReservationState.EXPIRED:
        return f"expired unclaimed at {to_the_second(reservation.expires_at)}"
    return f"was {state.value} at {to_the_second(reservation.ended_at or now)}"


def _incidents(job_uuid: UUID) -> Iterator[Happening]:
    for incident in MinerIncident.objects.filter(job_uuid=job_uuid):
        what = MinerIncidentType(incident.type).label
        yield Happening(incident.timestamp, f"{incident.hotkey_ss58address} {what}{_void(incident)}")
    for rejection in Rejection.objects.filter(job_uuid=job_uuid, excused=True):
        yield Happening(rejection.timestamp, f"{rejection.miner} rejected the job, excused: {rejection.sentence}")


def _void(evidence: Voidable) -> str:
    return f", voided by {evidence.voided_by}: {evidence.void_reason}" if evidence.voided_at else ""


def _receipts(job_uuid: UUID) -> Iterator[Happening]:
    most = "for {0.ttl} s at most".format
    for started in JobStartedReceipt.objects.filter(job_uuid=job_uuid):
        yield Happening(started.timestamp, f"started at {started.miner_hotkey}, {most(started)}{_void(started)}")
    for accepted in JobAcceptedReceipt.objects.filter(job_uuid=job_uuid):
        yield Happening(accepted.timestamp, f"accepted by {accepted.miner_hotkey}, {most(accepted)}{_void(accepted)}")
    for finished in JobFinishedReceipt.objects.filter(job_uuid=job_uuid):
        took = finished.time_took_us / 1e6
        yield Happening(finished.timestamp, f"finished by {finished.miner_hotkey} in {took:g} s{_void(finished)}")
