"""What a step was an example of: the counts behind `tests.properties.coverage`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from tests.naive import Booking, Refusal, Route, Subnet
from tests.properties import coverage as seen
from tests.properties.asks import wanted
from tests.properties.chain import CLASSES, MINERS, START
from tests.properties.coverage import CONTENTION, OPERATIONS, REFUSALS, STATES, Tally
from tests.properties.history import Do
from tests.properties.judge import Call

UNKNOWN_JOB = 10**6
"""Jobs with such numbers, and higher ones, were never picked for."""


def take(tally: Tally, call: Call, before: Subnet, after: Subnet) -> None:
    """Note what a call came to, between these two states."""
    kind, do = call.action.kind, call.do
    tally[OPERATIONS, kind] += 1
    tally[CONTENTION, seen.DISTURBED] += call.disturbed
    if call.crashed:
        tally[seen.crash(kind, call.crashed)] += 1
        tally[STATES, seen.LOST_ROUTE] += call.booked is not None
    answer = call.answer[0] if isinstance(call.answer, tuple) else call.answer
    if isinstance(answer, Refusal):
        tally[REFUSALS, answer.kind] += 1
        if name := REFUSED.get((kind, answer.kind)):
            tally[STATES, name] += 1
    tally[STATES, seen.TRUSTED] += isinstance(answer, Route) and answer.blocks is None
    if kind == "pick" and isinstance(answer, Route | Refusal) and not call.crashed:
        job = wanted(do, (0, 0.0, 0))
        tally[STATES, seen.UNREACHABLE] += any(before.gate(miner, job, call.now) == "address" for miner in MINERS)
    if kind in EVENTS:
        EVENTS[kind](tally, do, before, after, isinstance(answer, Refusal))


REFUSED = {
    ("spend", "ReservationExpired"): seen.SPEND_LAPSED,
    ("undo", "ReservationExpired"): seen.UNDO_LAPSED,
    ("spend", "ReservationAlreadySpent"): seen.SPEND_SPENT,
    ("undo", "ReservationAlreadySpent"): seen.UNDO_SPENT,
    ("spend", "ReservationReleased"): seen.SPEND_UNDONE,
    ("undo", "ReservationReleased"): seen.UNDO_UNDONE,
    ("spend", "ReservationNotFound"): seen.UNKNOWN,
    ("undo", "ReservationNotFound"): seen.UNKNOWN,
}


def block(tally: Tally, do: Do, before: Subnet, after: Subnet, refused: bool) -> None:
    if refused:
        ahead = dt.datetime.fromisoformat(do["timestamp"]) > START + dt.timedelta(days=365)
        tally[STATES, seen.FUTURE if ahead else seen.OUT_OF_TIME] += 1
    elif known := before.blocks.get(do["number"]):
        told = (dt.datetime.fromisoformat(do["timestamp"]), do["stake_share"])
        tally[STATES, seen.REPEATED if known == told else seen.CONTRADICTED] += 1
    else:
        tally[STATES, seen.LATE] += do["number"] < before.newest
        tally[STATES, seen.BELOW_PRUNED] += do["number"] < max(before.settled, default=0)
        tally[STATES, seen.LEFT] += bool(before.registered() - after.registered())
        tally[STATES, seen.RETURNED] += bool(after.registered() - before.registered())


def manifests(tally: Tally, do: Do, before: Subnet, after: Subnet, refused: bool) -> None:
    if refused:
        tally[STATES, seen.OLD_SYNC] += 1
        return
    tally[STATES, seen.SYNC_REPEATED] += len(before.syncs) == len(after.syncs)
    for miner in MINERS:
        for cls in CLASSES:
            was, now = before.executors(miner, cls), after.executors(miner, cls)
            tally[STATES, seen.RISE] += was < now
            tally[STATES, seen.SILENT] += was > 0 and miner in do["axons"] and miner not in do["executors"]
            voided = {n for n in before.earned(miner, cls) if n < after.voided_before(miner, cls)}
            voided -= {n for n in voided if n < before.voided_before(miner, cls)}
            held, spent = (_row_blocks(before, miner, cls, what) for what in ("held", "spent"))
            tally[STATES, seen.VOIDED_FREE] += bool(voided - held - spent)
            tally[STATES, seen.VOIDED_HELD] += bool(voided & held)
            tally[STATES, seen.VOIDED_SPENT] += bool(voided & spent)


def _row_blocks(model: Subnet, miner: str, cls: str, what: str) -> set[int]:
    mine = [pk for pk, b in model.bookings.items() if b.holds(miner, cls) and model.ends.get(pk, "held") == what]
    return {n for pk in mine for n in model.bookings[pk].blocks}


def incident(tally: Tally, do: Do, before: Subnet, after: Subnet, refused: bool) -> None:
    tally[STATES, seen.INCIDENT_AGAIN] += (do["hotkey"], do["job_uuid"]) in before.incidents


def receipt(tally: Tally, do: Do, before: Subnet, after: Subnet, refused: bool) -> None:
    tally[STATES, seen.RECEIPT_AGAIN] += do["job_uuid"] in before.receipts(do["event"])
    tally[STATES, seen.RECEIPT_UNKNOWN] += int(do["job_uuid"].replace("-", ""), 16) >= UNKNOWN_JOB
    written = dt.datetime.fromisoformat(do["timestamp"])
    expiries = [b.expires_at for b in before.bookings.values() if b.job_uuid == do["job_uuid"]]
    tally[STATES, seen.RECEIPT_LATE] += any(written > expiry for expiry in expiries)


def prune(tally: Tally, do: Do, before: Subnet, after: Subnet, refused: bool) -> None:
    gone = before.bookings.keys() - after.bookings.keys()
    spent = {pk for pk in gone if before.ends.get(pk) == "spent"}
    tally[STATES, seen.PRUNED_SPENT] += bool(spent)
    tally[STATES, seen.PRUNED_UNSPENT] += bool(gone - spent)
    tally[STATES, seen.TIDIED] += bool((after.ends.keys() | gone) - before.ends.keys())
    tally[STATES, seen.PRUNED_BLOCKS] += bool(before.blocks.keys() - after.blocks.keys())
    tally[STATES, seen.CARRIED] += bool((after.neurons.keys() & before.blocks.keys()) - before.neurons.keys())
    tally[STATES, seen.PRUNED_INCIDENTS] += bool(before.incidents.keys() - after.incidents.keys())
    receipts = ("job_started", "job_accepted", "job_finished")
    tally[STATES, seen.PRUNED_RECEIPTS] += any(before.receipts(k).keys() - after.receipts(k).keys() for k in receipts)


def forget(tally: Tally, do: Do, before: Subnet, after: Subnet, refused: bool) -> None:
    tally[STATES, seen.FORGOT] += bool(before.blocks.keys() - after.blocks.keys())
    released = {pk for pk, end in after.ends.items() if end == "released" and pk not in before.ends}
    tally[STATES, seen.FORGOT_HELD] += bool(released)
    tally[STATES, seen.FORGOT_DROP] += any(
        before.voided_before(miner, cls) != after.voided_before(miner, cls) for miner in MINERS for cls in CLASSES
    )


EVENTS = {
    "block": block,
    "forget": forget,
    "manifests": manifests,
    "incident": incident,
    "prune": prune,
    **dict.fromkeys(("job_started", "job_accepted", "job_finished"), receipt),
}


def booked(tally: Tally, booking: Booking, expired: Sequence[Booking]) -> None:
    """Note a new reservation, and those that expired and that were tidied up for it."""
    tally[STATES, seen.LAPSED_AND_TAKEN] += any(set(booking.blocks) & set(old.blocks) for old in expired)


def happened(tally: Tally, do: Do) -> None:
    """Note what was not asked of a router."""
    tally[OPERATIONS, do["ask"]] += 1
    tally[STATES, seen.AT_THE_EDGE] += do["ask"] == "expire"
    tally[STATES, seen.BACKWARDS] += do["ask"] == "clock" and do["seconds"] < 0


def mended(tally: Tally, *, crashed: bool) -> None:
    tally[STATES, seen.REPAIR_CRASHED if crashed else seen.REPAIRED] += 1


def together(tally: Tally, calls: Sequence[Call], lock_waits: int) -> None:
    """Note what a burst was like."""
    tally[CONTENTION, seen.BURSTS] += 1
    tally[CONTENTION, seen.LOCK_WAITS] += lock_waits
    tally[CONTENTION, seen.PASSED_OVER] += sum(call.passed_over for call in calls)
