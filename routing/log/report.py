"""Reports: of a decision, as text and as JSON; of a job, from the records of its decisions and of what followed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from uuid import UUID

from rich.console import Console
from rich.table import Table
from rich.text import Text

from allowance.interface import JobTooLong, Reservation, ReservationState, to_seconds, wei_text
from allowance.plumbing.console import WIDE, plain_table, to_the_second
from receipts.interface import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt, Voidable
from routing.decision.model import Candidate, Decision, Gate, Policy, summarise
from routing.log.records import load
from routing.models import DecisionRecord, MinerIncident, Rejection
from routing.types import JobRoute, MinerIncidentType, OrganicJobRequest

STYLES = {None: "green", Gate.EXECUTORS: "yellow", Gate.RESERVATION: "yellow"}


def as_json(decision: Decision) -> dict[str, object]:
    """Return a decision as JSON values. Wei is a string, because JSON readers can't represent all numbers to 2**256."""
    policy = decision.policy
    return {
        "uuid": decision.job.uuid,
        "executor_class": decision.job.executor_class,
        "seconds": decision.job.seconds,
        "at": decision.at.isoformat(),
        "block": decision.block,
        "minimum_collateral_wei": policy and str(policy.minimum_wei),
        "window_hours": policy and policy.window.total_seconds() / 3600,
        "unused_blocks": policy and policy.unused_blocks,
        "outcome": decision.outcome.value,
        "sentence": sentence(decision),
        "summary": decision.summary,
        "route": decision.route and _route(decision.route),
        "candidates": candidates_as_json(decision),
        "counts": {gate.value: n for gate, n in decision.counts.items()},
    }


def candidates_as_json(decision: Decision) -> list[dict[str, object]]:
    """Return the candidates as JSON values, in the order of `in_order`, each with its input and its verdict."""
    return [_candidate(c) for c in in_order(decision)]


def refused_as_json(request: OrganicJobRequest, error: Exception) -> dict[str, object]:
    """Return the refusal of a job that was refused before a decision, in the JSON form of a decision."""
    return {
        "uuid": request.uuid,
        "executor_class": request.executor_class,
        "outcome": "JOB_TOO_LONG" if isinstance(error, JobTooLong) else "BAD_MESSAGE",
        "sentence": str(error),
        "route": None,
        "candidates": [],
        "counts": {},
    }


def in_order(decision: Decision) -> list[Candidate]:
    """Return the candidates by rank, then the unranked ones, those that failed at a later gate first."""
    gates = list(Gate)
    return sorted(
        decision.candidates,
        key=lambda c: (c.rank is None, c.rank or 0, -gates.index(c.verdict.gate) if c.verdict.gate else 0),
    )


def sentence(decision: Decision) -> str:
    """Return the result of a decision in one line."""
    if not decision.route:
        return str(decision.refusal)
    miner = decision.route.miner
    blocks = decision.route.allowance_blocks
    paid = f", paid with {len(blocks)} blocks ({blocks[0]} to {blocks[-1]})" if blocks else ", no allowance needed"
    return f"Routed to {miner.hotkey_ss58} at {miner.endpoint}{paid}."


def show(decision: Decision, console: Console, *, most: int | None = None) -> None:
    """Print the job, the candidates with their verdicts (only the first `most`, if given), the result and a summary."""
    job = decision.job
    where = "" if decision.block is None else f", at block {decision.block}"
    console.print(f"Job {job.uuid}: {job.executor_class}, {job.seconds:g} s{where}", style="bold", soft_wrap=True)
    show_candidates(decision, console, most=most)
    console.print(Text(sentence(decision), style="green" if decision.route else "red"), soft_wrap=True)
    console.print(decision.summary, soft_wrap=True)


def show_candidates(decision: Decision, console: Console, *, most: int | None = None) -> None:
    """Print the candidates with their verdicts (only the first `most`, if given), if there are any."""
    if decision.candidates:
        candidates = in_order(decision)
        console.print(_table(candidates[:most], whole_hotkeys=console.width >= WIDE))
        if most is not None and len(candidates) > most:
            console.print(f"… and {len(candidates) - most} more", style="dim")


def _table(candidates: list[Candidate], *, whole_hotkeys: bool) -> Table:
    numbers = "rank", "score", "incidents", "executors", "ongoing", "free s", "collateral"
    table = plain_table("rank", "hotkey", *numbers[1:], "verdict", numbers=numbers, header_style="bold")
    table.columns[1].no_wrap = True
    for c in candidates:
        verdict = "eligible" if c.verdict.gate is None else c.verdict.gate.value
        table.add_row(
            str(c.rank or "–"),
            Text(c.hotkey if whole_hotkeys or len(c.hotkey) < 16 else f"{c.hotkey[:9]}…{c.hotkey[-5:]}"),
            f"{c.score:.3f}",
            str(c.incidents),
            str(c.executors),
            str(c.ongoing),
            f"{c.free_seconds:.1f}",
            wei_text(c.wei),
            Text(f"{verdict}: {c.verdict.sentence}", style=STYLES.get(c.verdict.gate, "red")),
        )
    return table


def _route(route: JobRoute) -> dict[str, object]:
    return {
        "hotkey": route.miner.hotkey_ss58,
        "address": route.miner.address,
        "ip_version": route.miner.ip_version,
        "port": route.miner.port,
        "allowance_blocks": route.allowance_blocks,
    }


def _candidate(c: Candidate) -> dict[str, object]:
    return {
        "rank": c.rank,
        "hotkey": c.hotkey,
        "score": c.score,
        "incidents": c.incidents,
        "executors": c.executors,
        "ongoing": c.ongoing,
        "free_seconds": c.free_seconds,
        "unspent_seconds": to_seconds(c.standing.unspent),
        "collateral_wei": str(c.wei),
        "verdict": {
            "gate": c.verdict.gate,
            "required": _number(c.verdict.required),
            "observed": _number(c.verdict.observed),
            "sentence": c.verdict.sentence,
        },
    }


def _number(value: float) -> float | str:
    return str(value) if isinstance(value, int) and value >= 2**53 else value


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
        if hours is None:
            return summarise(None, self.record.asked, counts)
        policy = Policy(self.record.minimum_wei, dt.timedelta(hours=hours), self.record.unused_blocks)
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
            "unused_blocks": None if record.window_hours is None else record.unused_blocks,
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
            "candidates": self.decision and candidates_as_json(self.decision),
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
