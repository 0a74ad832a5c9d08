"""Does the decision log have one record of each decision, and what was decided? Would each be decided alike again?"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from routing.log import replay
from routing.log.records import load
from routing.models import DecisionRecord
from routing.types import Outcome
from tests.naive import Refusal, Route
from tests.properties.asks import refused
from tests.properties.judge import REFUSED_BY, Call, Violation


def check_records(calls: Sequence[Call], last: int) -> int:
    """Compare the records after number `last` with what calls did, crashed ones too; return the last number then.

    A call that is a pick gets what its record says. Raises Violation unless each decision has its one record, and each
    record its decision.
    """
    records = list(DecisionRecord.objects.filter(pk__gt=last).order_by("pk"))
    for record in records:
        if record.window_hours is not None and replay.differences(record) != []:
            raise Violation(f"{record}, made again, differs: {replay.differences(record)}.")
    left = list(records)
    picks = [call for call in calls if call.do.get("ask") == "pick"]
    for call in sorted(picks, key=lambda call: call.crashed is not None):  # a crashed one gets what is left
        if own := next((record for record in left if is_of(record, call)), None):
            left.remove(own)
            call.recorded = answer(own, call)
        elif call.booked or decided(call):
            raise Violation(f"{call} answered {call.answer} and made {call.booked}; its record is not among {left}.")
    if left:
        raise Violation(f"{[(record, record.outcome) for record in left]} are records of no pick.")
    return records[-1].pk if records else last


def is_of(record: DecisionRecord, call: Call) -> bool:
    """Tell whether a record fits a pick: its job, its reservation and, unless it crashed, its answer."""
    job = None if call.do["uuid"] == "not-a-uuid" else UUID(call.do["uuid"])
    if (record.job_uuid, record.reservation_id) != (job, call.booked_as):
        return False
    return bool(call.crashed) or answer(record, call) == given(call)


def answer(record: DecisionRecord, call: Call) -> Route | Refusal:
    """Return the answer that a record tells, with the blocks that its pick booked."""
    if record.outcome == Outcome.ROUTED:
        return Route(record.miner, call.booked.blocks if call.booked else None)
    decision = load(record)
    if decision is None:
        raise Violation(f"{record} says {record.outcome} and not why.")
    return refused(decision.refusal)


def decided(call: Call) -> bool:
    """Tell whether a pick answered with a decision: a route, or a refusal after a look at the miners."""
    told = given(call)
    return isinstance(told, Route) or (isinstance(told, Refusal) and told.kind in REFUSED_BY)


def given(call: Call) -> object:
    return call.answer[0] if isinstance(call.answer, tuple) else call.answer
