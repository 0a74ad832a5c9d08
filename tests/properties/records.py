"""Is what the decision log says of picks what they did? And would each be decided alike again?"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from routing import replays
from routing.models import DecisionRecord
from tests.naive import Refusal
from tests.properties.judge import REFUSED_BY, Call, Violation


def check_records(calls: Sequence[Call], last: int) -> int:
    """Compare the records after number `last` with what calls did, crashed ones too; return the last number then.

    Raises Violation unless each reservation that a pick made has its record, and none else has one.
    """
    records = list(DecisionRecord.objects.filter(pk__gt=last).order_by("pk"))
    picks = [call for call in calls if call.do.get("ask") == "pick"]
    made = {call.booked_as for call in picks if call.booked_as is not None}
    told = {record.reservation_id for record in records if record.reservation_id is not None}
    if made != told:
        raise Violation(f"Reservations {made} were made by picks; the records are of {told}.")
    for record in records:
        if record.window_hours is not None and replays.differences(record) != []:
            raise Violation(f"{record}, made again, differs: {replays.differences(record)}.")
    refused = {(record.job_uuid, record.outcome) for record in records if not record.miner}
    for call in picks:
        answer = call.answer
        if isinstance(answer, Refusal) and answer.kind in REFUSED_BY and not call.crashed:
            job = UUID(call.do["uuid"])
            if (job, answer.kind) not in refused:
                raise Violation(f"{call} was refused as {answer.kind}; the records are {refused}.")
    return records[-1].pk if records else last
