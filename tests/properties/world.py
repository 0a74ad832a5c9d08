"""The real code and the naive model, side by side, through one history.

Whatever a router commits is read back and told to the model at once, as the database has it. So the model is always
where the database is, and says what the next answer must be.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import pytest
import time_machine

from allowance import clock
from routing.decision import turns
from routing.decision.model import Decision
from tests.factories import empty_tables
from tests.naive import Booking, Subnet
from tests.properties import asks, notes
from tests.properties.chain import START
from tests.properties.compare import (
    Rows,
    compare_balances,
    compare_reservations,
    compare_the_rest,
    damage,
    stored_reservations,
)
from tests.properties.coverage import Tally
from tests.properties.history import AFTER_COMMIT, ROUTERS, Action, Do, Step
from tests.properties.judge import Call, Violation, check_hold, judge
from tests.properties.pruned import forget
from tests.properties.records import check_records
from tests.properties.router import Router
from tests.properties.schedule import LONGEST, Schedule, StuckError, await_end_of

EVERY = 6
"""Steps between two comparisons of all balances."""


@contextmanager
def fleet() -> Iterator[list[Router]]:
    """Give the routers, for any number of histories."""
    routers = [Router(number) for number in range(ROUTERS)]
    try:
        with mock.patch.object(turns, "WAIT", 0):  # they stand for processes, and one may be stopped in its turn
            yield routers
    finally:
        for router in routers:
            router.close()
            await_end_of(router.pid)


def simulate(
    steps: Iterable[Step], routers: Sequence[Router], tally: Tally, told: list[Step] | None = None
) -> list[str]:
    """Go through a history, in empty tables, and return its trace. Raises Violation where the two differ.

    `told` gets the steps that were begun, with times as a journal has them.
    """
    empty_tables()
    with time_machine.travel(START, tick=False) as traveller, pytest.MonkeyPatch.context() as patch:
        world = World(routers, traveller, tally, [] if told is None else told)
        patch.setattr(clock, "now", lambda *_, **__: world.clock)
        for step in steps:
            world.step(step)
        world.compare()
        compare_the_rest(world.model)
    return world.trace


class World:
    """All that a history acts on. `clock` is the site's; the clock of each router's host differs by its skew."""

    def __init__(
        self, routers: Sequence[Router], traveller: time_machine.Traveller, tally: Tally, told: list[Step]
    ) -> None:
        self.routers = routers
        self.traveller = traveller
        self.tally = tally
        self.told = told
        self.model = Subnet()
        self.rows: Rows = {}
        self.clock = self.travelled = START
        self.skews = dict.fromkeys(range(ROUTERS), dt.timedelta())
        self.policy: asks.Policy = (0, 24.0, 0)
        self.trace: list[str] = []
        self.last_record = 0

    def step(self, step: Step) -> None:
        """Do what a step says, and compare what came of it."""
        actions = [replace(action, do=self.timed(action.do)) for action in step.actions]
        self.told.append(replace(step, actions=tuple(actions)))
        calls = []
        for action in actions:
            do = self.resolve(action.do)
            if do is None or self.happens(action, do):
                continue
            calls.append(Call(action, do, self.routers[action.router], self.clock))
        if not calls:
            return
        before = self.model.copy()
        if len(calls) == 1:
            self.alone(calls[0])
        else:
            self.together(calls, step.schedule)
        if len(calls) > 1 or not calls[0].read_back:
            self.rows = stored_reservations()
        compare_reservations(self.rows, self.model)
        self.last_record = check_records(calls, self.last_record)
        for call in calls:
            judge(call, self.policy)
            notes.take(self.tally, call, before, self.model)
            self.trace.append(f"{call.action.kind}: {self.relative(call)} {call.crashed or ''}")
        if len(calls) > 1 or calls[0].crashed or len(self.told) % EVERY == 0:
            self.compare()
        if any(call.action.kind == "prune" for call in calls):
            compare_the_rest(self.model)

    def timed(self, do: Do) -> Do:
        """Return what an action does with seconds from the clock's made times."""
        times = {
            name: (self.clock + dt.timedelta(seconds=do[name])).isoformat()
            for name in ("timestamp", "time_started", "time_accepted")
            if isinstance(do.get(name), int)
        }
        return {**do, **times}

    def resolve(self, do: Do) -> Do | None:
        """Return what an action does with the reservation it refers to filled in, or None if there is none."""
        if "back" not in do:
            return do
        ids = list(self.model.bookings)  # in the order in which they were made
        return {**do, "id": ids[-1 - do["back"]]} if do["back"] < len(ids) else None

    def happens(self, action: Action, do: Do) -> bool:
        """Do what is not asked of a router: the clock's steps, the operator's settings. Tell whether it was that."""
        match do.get("ask"):
            case "clock":
                self.clock += dt.timedelta(seconds=do["seconds"])
            case "expire":
                edge = self.model.bookings[do["id"]].expires_at + dt.timedelta(microseconds=do["us"])
                self.clock = max(self.clock, edge)
            case "skew":
                self.skews[action.router] = dt.timedelta(microseconds=do["us"])
            case "policy":
                self.policy = do["wei"], do["hours"], do["unused"]
                asks.policy(do)
            case _:
                return False
        notes.happened(self.tally, do)
        return True

    def alone(self, call: Call) -> None:
        """Let one router do its action, with nobody beside it."""
        self.move_clock(call)
        call.states = [self.model.copy()]
        router, do = call.router, call.do
        dry = router.ask(partial(asks.rehearse, do)) if do.get("ask") == "pick" else None
        damaged = do.get("damage") and damage(do["damage"], do["nth"])
        live: list[Decision] = []
        router.begin(partial(asks.ask, do, live), crash=call.action.crash)
        if not router.arrives(LONGEST):
            raise StuckError(f"{call} does not come back.")
        if router.crashed:
            await_end_of(router.pid)
        call.end()
        if call.committed:
            self.adopt(call, [])
        if damaged:
            self.mend(call)
        if dry is not None and not call.crashed and not asks.same_as_dry(dry, call.answer, live):
            raise Violation(f"{call} answered {call.answer}, the dry run before it {dry}.")

    def mend(self, call: Call) -> None:
        """See to it that damage is repaired, by a second go where the first one crashed."""
        if call.crashed:
            call.router.ask(partial(asks.ask, call.do))
        elif call.answer != "mended":
            raise Violation(f"{call} found nothing to repair.")
        call.answer = asks.OK
        notes.mended(self.tally, crashed=bool(call.crashed))
        self.compare()

    def together(self, calls: Sequence[Call], seed: int) -> None:
        """Let routers do their actions side by side, as the schedule of this seed has it."""
        by_router = {call.router: call for call in calls}
        for call in calls:
            call.router.begin(partial(asks.ask, call.do), crash=call.action.crash, stepwise=True)

        def before(router: Router) -> None:
            call = by_router[router]
            self.move_clock(call)
            call.states = call.states or [self.model.copy()]

        def after(router: Router) -> None:
            passed = "ended" if router.done else " ".join(router.point.split()[:2])
            self.trace.append(f"router {router.number}: {passed}")
            if router.done:
                by_router[router].end()
            elif router.point == AFTER_COMMIT:
                self.adopt(by_router[router], calls)

        schedule = Schedule([call.router for call in calls], seed, before=before, after=after)
        try:
            schedule.run()
        except BaseException:
            schedule.abandon()
            raise
        notes.together(self.tally, calls, schedule.lock_waits)

    def move_clock(self, call: Call) -> None:
        """Let this process have the clock of the router's host. A step's length says it to the microsecond."""
        there = call.now + self.skews[call.action.router]
        self.traveller.shift(there - self.travelled)
        self.travelled = there

    def adopt(self, call: Call, calls: Sequence[Call]) -> None:
        """Tell the model what the call has just committed, if the contract allows it."""
        if "event" in call.do:
            self.model.event(call.do, call.now)
        elif call.action.kind == "prune":
            self.adopt_pruned(call)
        elif call.action.kind == "forget":
            self.adopt_forgotten(call)
        else:
            self.adopt_reservations(call)
        for other in calls:
            if other is not call and other.states and not other.router.done:
                other.states.append(self.model.copy())
                other.disturbed = True

    def adopt_reservations(self, call: Call) -> None:
        """Tell the model what has become of the reservations."""
        rows = stored_reservations()
        call.read_back = not call.crashed
        changed = {pk: row for pk, row in rows.items() if self.rows.get(pk) != row}
        made = {pk: booking for pk, (booking, _) in changed.items() if pk not in self.rows}
        ended = {pk: end for pk, (_, end) in changed.items() if pk in self.rows}
        self.adopt_ends(call, ended, made)
        for pk, booking in made.items():
            if call.do.get("ask") not in {"pick", "reserve"} or call.booked:
                raise Violation(f"{call} stored {booking}.")
            call.states.append(self.model.copy())
            check_hold(call, booking, self.policy)
            call.booked, call.booked_as = booking, pk
            notes.booked(self.tally, booking, [self.model.bookings[expired] for expired in ended])
            self.model.bookings[pk] = booking
        self.rows = rows

    def adopt_pruned(self, call: Call) -> None:
        """Tell the model what a prune has tidied and forgotten, if that changes no answer."""
        rows = stored_reservations()
        gone = self.rows.keys() - rows.keys()
        noted = {pk: end for pk, (_, end) in rows.items() if self.rows[pk] != rows[pk]}
        noted |= dict.fromkeys(gone - self.model.ends.keys(), "expired")  # noted and forgotten since
        expired = {
            pk for b in self.model.bookings.values() for pk in self.model.expired(b.miner, b.executor_class, call.now)
        }
        if not noted.items() <= dict.fromkeys(expired, "expired").items():
            raise Violation(f"{call} ended reservations {noted}; expired are {expired}.")
        self.model.ends.update(noted)
        forget(self.model, gone, call.now, self.policy)
        self.rows = rows

    def adopt_forgotten(self, call: Call) -> None:
        """Tell the model which blocks are forgotten, if that was allowed."""
        rows = stored_reservations()
        ended = {pk: end for pk, (_, end) in rows.items() if self.rows.get(pk) != rows[pk]}
        first = call.do["first"]
        if self.model.keeps(first, call.now, release=call.do["release"]):
            raise Violation(f"{call} forgot blocks of reservations {self.model.users(first, call.now)}.")
        if ended != (expected := self.model.forget(first, call.now)):
            raise Violation(f"{call} ended reservations {ended}, the model says {expected}.")
        self.rows = rows

    def adopt_ends(self, call: Call, ended: dict[int, str], made: dict[int, Booking]) -> None:
        """Check that reservations ended as they may: the one that was asked for, and those that expired unnoticed."""
        expected: dict[int, str] = {}
        if call.do.get("ask") in {"spend", "undo"} and call.do["id"] in self.model.bookings.keys() - self.model.ends:
            how = "spent" if call.do["ask"] == "spend" else "released"
            expected = {call.do["id"]: how if self.model.ending(call.do["id"], call.now) is None else "expired"}
        elif call.do.get("ask") in {"pick", "reserve"} and (made or ended):
            touched = [*made.values(), *(self.model.bookings[pk] for pk in ended)][0]
            expired = self.model.expired(touched.miner, touched.executor_class, call.now)
            expected = dict.fromkeys(expired, "expired")
        if ended != expected:
            raise Violation(f"{call} ended reservations {ended}, the model says {expected}.")
        self.model.ends.update(ended)

    def compare(self) -> None:
        """Compare all balances."""
        compare_balances(self.model, self.clock, self.tally)

    def relative(self, call: Call) -> Any:
        """Return the answer without the reservation's id, which no seed decides."""
        return call.answer[0] if isinstance(call.answer, tuple) else call.answer
