"""Was an answer right? Alone, a router must answer what the model does; side by side, a moment must justify it.

The moments are the model's states between an operation's beginning and its end, one after each commit. What the blocks
of the window say may be older than all else: a block recorded meanwhile only adds to what a job may use.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.naive import Booking, Gate, Refusal, Route, Subnet
from tests.properties.asks import Policy, bad_pick, expect, wanted
from tests.properties.history import AFTER_COMMIT, Action, Do
from tests.properties.router import Router


class Violation(AssertionError):
    """Say what the real code did that the contract does not allow."""


@dataclass
class Call:
    """An action under way: what it does, by which clock, and what it saw: the states from `begin` to `end`."""

    action: Action
    do: Do
    router: Router
    now: dt.datetime
    states: list[Subnet] = field(default_factory=list)
    disturbed: bool = False
    booked: Booking | None = None
    booked_as: int | None = None
    recorded: Route | Refusal | None = None
    answer: Any = None
    crashed: str | None = None
    passed_over: int = 0
    committed: bool = False
    read_back: bool = False

    def end(self) -> None:
        """Take over what the router has to say, which by then has ended."""
        router = self.router
        self.answer, self.crashed, self.passed_over = router.answer, router.crashed, router.passed_over
        self.committed = router.counts[AFTER_COMMIT] > 0

    def __str__(self) -> str:
        return f"router {self.router.number}, {self.do}"


def judge(call: Call, policy: Policy) -> None:
    """Raise Violation if the answer, or what was booked before a crash, can't be justified."""
    expected = expect(call.do, call.states[0], policy, call.now)
    answer = call.answer
    stored = Route(call.booked.miner, call.booked.blocks) if call.booked else None
    if call.crashed:
        answer = stored or left_behind(call, expected)
    else:
        answer, pk = answer if isinstance(answer, tuple) else (answer, None)
        held = (
            answer if isinstance(answer, Route) and answer.blocks is not None else None
        )  # a fixed route holds nothing
        if (held, pk) != (stored, call.booked_as):
            raise Violation(f"{call} answered {answer}, {pk}, but {call.booked} is stored as {call.booked_as}.")
    if answer == expected:
        return
    if not call.disturbed and not (call.passed_over and isinstance(answer, Route)):
        raise Violation(f"{call} answered {answer}; the model says {expected}.")
    if not plausible(call, answer, policy):
        raise Violation(f"{call} answered {answer}, which no moment justifies; at first the model says {expected}.")


def left_behind(call: Call, expected: Any) -> Any:
    """Return the answer of a crashed call that booked nothing: what its record says. None: what it committed is lost.

    A pick commits a reservation with its record, or the record alone: of a refusal, or of a fixed route. Only a pick
    that met others commits attempts that reserve nothing. Without a commit there is no evidence, and any answer is
    right: the expected one is returned.
    """
    if call.recorded:
        return call.recorded
    stores = call.do.get("ask") == "pick" or isinstance(expected, Route)
    lost = call.committed and stores and not call.passed_over and not call.disturbed
    return None if lost else expected


def check_hold(call: Call, booking: Booking, policy: Policy) -> None:
    """Raise Violation unless a new reservation was allowed at the moment of its commit, the last of the call's states.

    By then the books of its account are the newest, for its row is locked; receipts need no lock.
    """
    now, do = call.states[-1], call.do
    miner, cls = booking.miner, booking.executor_class
    seconds = sum(do["limits"]) if do["ask"] == "pick" else do["seconds"]
    if do.get("trusted"):
        raise Violation(f"{call} stored {booking}; a fixed route holds nothing.")
    if cls != do["executor_class"] or booking.job_uuid != do["uuid"]:
        raise Violation(f"{call} stored {booking}, which is another job.")
    if booking.expires_at != call.now + dt.timedelta(seconds=seconds + 100):
        raise Violation(f"{call} stored {booking}, which expires at the wrong time; its clock says {call.now}.")
    if miner not in now.registered():
        raise Violation(f"{call} stored {booking}, but the newest neurons are {sorted(now.registered())}.")
    offers = [
        view.take(miner, cls, seconds, do.get("start", view.newest + policy[2]), call.now)
        for view in (now.with_blocks_of(then) for then in reversed(call.states))
    ]
    if booking.blocks not in offers:
        raise Violation(f"{call} stored {booking}; the oldest free blocks that pay for it are {offers[0]}.")
    if do["ask"] != "pick":
        return
    if miner in do["exclude"]:
        raise Violation(f"{call} stored {booking}, though the miner was excluded.")
    if all(then.wei.get(miner, 0) < policy[0] for then in call.states):
        raise Violation(f"{call} stored {booking}, whose miner posted too little collateral.")
    if not now.reachable(miner):
        raise Violation(f"{call} stored {booking}, whose miner has no address.")
    counts = [with_receipts_of(now, then).ongoing(miner, cls, call.now) for then in call.states]
    if min(counts) >= now.executors(miner, cls):
        raise Violation(f"{call} stored {booking}: {min(counts)} jobs on {now.executors(miner, cls)} executors.")


def with_receipts_of(state: Subnet, other: Subnet) -> Subnet:
    return replace(state, started=other.started, accepted=other.accepted, finished=other.finished)


def plausible(call: Call, answer: Any, policy: Policy) -> bool:
    """Tell whether the moments of a call that was disturbed justify its answer."""
    do = call.do
    if do.get("ask") == "pick" and not do["trusted"] and not bad_pick(do):
        # A route was checked when it was stored. Each miner must have been unfit at some moment, whatever the order.
        return call.booked is not None if isinstance(answer, Route) else plausible_refusal(call, answer, policy)
    if do.get("ask") == "find":
        return plausible_find(call, answer)
    if do.get("ask") == "reserve" and isinstance(answer, Route):
        return True
    return any(answer == expect(do, view, policy, call.now) for view in views(call.states))


def views(states: Sequence[Subnet]) -> Iterator[Subnet]:
    """Yield what a router may have seen: the books of one moment with the blocks of the same or an earlier one."""
    for i, state in enumerate(states):
        for then in states[: i + 1]:
            yield state.with_blocks_of(then)


REFUSED_BY: dict[str, set[Gate | None]] = {
    "NotEnoughAllowanceException": {"absent", "excluded", "allowance"},
    "NotEnoughCollateralException": {"absent", "excluded", "allowance", "collateral"},
    "AllMinersBusy": {"absent", "excluded", "allowance", "collateral", "address", "executors"},
}


def plausible_refusal(call: Call, answer: Refusal, policy: Policy) -> bool:
    """Tell whether each miner was unfit for the refusal's reason, or a weightier one, at some moment."""
    if answer.kind not in REFUSED_BY:
        return False
    job = wanted(call.do, policy)
    seen = list(views(call.states))
    everybody = frozenset[str]().union(*(view.registered() for view in seen))
    gates = [{view.gate(miner, job, call.now) for view in seen} for miner in everybody]
    return all(reasons & REFUSED_BY[answer.kind] for reasons in gates)


def plausible_find(call: Call, answer: list[tuple[str, int]] | Refusal) -> bool:
    """Tell whether each amount was right at some moment, and each miner left out too short at one."""
    do = call.do
    if isinstance(answer, Refusal) and answer.kind != "NotEnoughAllowanceException":
        return False
    found = {} if isinstance(answer, Refusal) else dict(answer)
    seen = list(views(call.states))
    for miner in frozenset(found).union(*(view.registered() for view in seen)):
        amounts = {sum(view.free(miner, do["executor_class"], do["start"], call.now).values()) for view in seen}
        if miner in found and found[miner] not in amounts:
            return False
        if miner not in found and min(amounts) >= round(do["seconds"] * 10**9):
            return False
    return True
