"""Random histories, told to the real ledger and to the naive model: every answer must agree to the nanosecond."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any
from uuid import UUID

import pytest
import time_machine
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allowance import allowance, reservations
from allowance.audit import check_ledger
from allowance.types import AllowanceException, ExecutorClass, NotEnoughAllowanceException
from routing.book import DryBook, LiveBook
from routing.conf import make_policy
from routing.journal import parse
from routing.pipeline import decide, refusal
from tests.factories import job_request
from tests.naive import Subnet

MINERS = ("anna", "bert", "cleo")
CLASSES = ("always_on.gpu-24gb", "always_on.test")
FIRST = 1000
START = dt.datetime(2025, 6, 1, tzinfo=dt.UTC)
DURATIONS = (12_000_000, 12_000_000, 12_000_000, 0, 11_999_999, 12_500_000, 12_500_001, 60_000_000)

Event = dict[str, Any]


@st.composite
def chains(draw: st.DrawFn) -> list[Event]:
    """Draw what the chain said: blocks late, twice and out of order, manifests in theirs, miners that come and go."""
    size = draw(st.integers(4, 12))
    at = START - dt.timedelta(minutes=5)
    blocks: list[Event] = []
    syncs: list[Event] = []
    share = draw(st.sampled_from([0.1, 0.25, 1 / 3, 1.0]))
    for number in range(FIRST, FIRST + size):
        neurons = draw(st.sampled_from([None, None, None, MINERS, MINERS[:2], MINERS[1:], ()]))
        if number == FIRST and draw(st.booleans()):
            neurons = MINERS
        block = {"event": "block", "number": number, "timestamp": at.isoformat(), "stake_share": share}
        blocks.append({**block, "hotkeys": neurons})
        at += dt.timedelta(microseconds=draw(st.sampled_from(DURATIONS)))
    numbers = draw(st.lists(st.integers(FIRST, FIRST + size), max_size=3))
    for number in [FIRST - draw(st.integers(0, 1)), *sorted(numbers)]:
        asked = MINERS if not syncs else draw(st.sets(st.sampled_from(MINERS), min_size=1).map(sorted))
        counts = st.fixed_dictionaries({name: st.integers(0 if syncs else 1, 3) for name in CLASSES})
        answers = {name: draw(counts) for name in asked if not syncs or draw(st.integers(0, 3))}
        axons = {name: {"address": "10.0.0.1", "ip_version": 4, "port": 8000} for name in asked}
        syncs.append({"event": "manifests", "block": number, "axons": axons, "executors": answers})
    repeats = draw(st.lists(st.sampled_from(blocks), max_size=2))
    events = draw(st.permutations(blocks + repeats)) if draw(st.booleans()) else blocks
    for sync in syncs:  # in their own order, anywhere among the blocks
        low = max((i + 1 for i, e in enumerate(events) if e["event"] == "manifests"), default=0)
        events.insert(draw(st.integers(low, len(events))), sync)
    return _without_repeats(events)


def _without_repeats(events: list[Event]) -> list[Event]:
    """Leave out syncs that say again what one at the same block said: the contract calls them repeats."""
    kept: list[Event] = []
    for event in events:
        if event["event"] != "manifests" or event not in kept:
            kept.append(event)
    return kept


HOUR = 3600
uuids = st.integers(1, 6).map(lambda n: str(UUID(int=n)))
moments = st.sampled_from([-HOUR - 1, -HOUR, -160, -60, 0, 1, 100]).map(lambda s: START + dt.timedelta(seconds=s))
ttls = st.sampled_from([0, 60, 160, 300])


@st.composite
def happenings(draw: st.DrawFn) -> Event:
    """Draw an event beside the chain."""
    names, classes, job = st.sampled_from(MINERS), st.sampled_from(CLASSES), draw(uuids)
    at = draw(moments).isoformat()
    kind = draw(st.sampled_from(["collateral", "incident", "job_started", "job_accepted", "job_finished"]))
    receipt = {"event": kind, "job_uuid": job, "miner_hotkey": draw(names), "validator_hotkey": "v", "timestamp": at}
    match kind:
        case "collateral":
            return {"event": kind, "hotkey": draw(names), "wei": str(draw(st.sampled_from([0, 5, 6, 2**256 - 1])))}
        case "incident":
            fault = draw(st.sampled_from(["MINER_JOB_REJECTED", "MINER_JOB_FAILED", "MINER_HORDE_FAILED"]))
            where = {"hotkey": draw(names), "job_uuid": job, "executor_class": draw(classes)}
            return {"event": kind, "type": fault, **where, "timestamp": at}
        case "job_started":
            return {**receipt, "executor_class": draw(classes), "is_organic": True, "ttl": draw(ttls)}
        case "job_accepted":
            return {**receipt, "time_accepted": at, "ttl": draw(ttls)}
        case _:
            return {**receipt, "time_started": at, "time_took_us": 1, "score_str": "1", "block_numbers": []}


picks = st.tuples(
    st.just("pick"), uuids, st.sampled_from(CLASSES), st.integers(1, 40), st.sampled_from([0, 0, 6]), st.integers(0, 1)
)
asks = st.one_of(
    picks,
    picks,
    st.tuples(st.just("find"), st.sampled_from(CLASSES), st.floats(0.001, 60), st.integers(FIRST - 2, FIRST + 740)),
    st.tuples(st.sampled_from(["spend", "undo"]), st.integers(0, 9)),
    st.tuples(st.just("wait"), st.sampled_from([0.000001, 1.0, 59.999999, 100.0])),
    st.tuples(st.just("wait_for_lapse"), st.integers(0, 9), st.integers(-1, 1)),
    st.tuples(st.just("event"), happenings()),
)


@pytest.mark.django_db(transaction=True)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(chain=chains(), before=st.lists(happenings(), max_size=8), questions=st.lists(asks, min_size=4, max_size=20))
def test_every_answer_agrees_with_the_naive_model(
    chain: list[Event], before: list[Event], questions: list[tuple[Any, ...]]
) -> None:
    example = transaction.atomic()
    example._from_testcase = True  # type: ignore[attr-defined]  # rolled back like a test case, so durable blocks may nest
    with example:
        both = Both()
        for event in [*chain, *before]:
            both.event(event)
        for question in questions:
            getattr(both, question[0])(*question[1:])
        assert list(check_ledger()) == []
        transaction.set_rollback(True)


class Both:
    """The real thing and the naive model, asked the same."""

    def __init__(self) -> None:
        self.naive = Subnet()
        self.now = START
        self.ids: list[int] = []

    def event(self, event: Event) -> None:
        parse(json.dumps(event)).apply()
        self.naive.event(event)

    def find(self, executor_class: str, seconds: float, start: int) -> None:
        expected = self.naive.find(seconds, executor_class, start, self.now)
        answer: Any
        with time_machine.travel(self.now, tick=False):
            try:
                found = allowance().find_miners_with_allowance(
                    allowance_seconds=seconds, executor_class=executor_class, job_start_block=start
                )
                answer = [(hotkey, round(s * 10**9)) for hotkey, s in found]
            except NotEnoughAllowanceException as error:
                highest = (error.highest_available_allowance, error.highest_unspent_allowance)
                answer = (type(error).__name__, *(round(s * 10**9) for s in highest))
        assert answer == expected

    def pick(self, uuid: str, executor_class: str, seconds: int, min_wei: int, hours: int) -> None:
        request = job_request(seconds, uuid=uuid, executor_class=ExecutorClass(executor_class))
        policy = make_policy(min_wei, hours)
        dry = decide(request, DryBook(), now=self.now, policy=policy)
        live = decide(request, LiveBook(pinned=self.now), now=self.now, policy=policy)
        expected = self.naive.pick(request.model_dump(), self.now, min_wei, hours)
        assert dry.candidates == live.candidates
        if live.route is None:
            assert dry.route is None
            assert type(refusal(live)).__name__ == expected[0]
            return
        assert (live.route.miner.hotkey_ss58, live.route.allowance_blocks) == expected
        assert dry.route is not None
        assert (dry.route.miner, dry.route.allowance_blocks) == (live.route.miner, live.route.allowance_blocks)
        assert live.route.allowance_reservation_id is not None
        self.ids.append(live.route.allowance_reservation_id)

    def spend(self, index: int) -> None:
        self.end(index, "spent")

    def undo(self, index: int) -> None:
        self.end(index, "released")

    def end(self, index: int, how: str) -> None:
        if index >= len(self.ids):
            return
        end = reservations.spend if how == "spent" else reservations.release
        try:
            end(self.ids[index], now=self.now)
            answer = ["ok"]
        except AllowanceException as error:
            answer = [kind.__name__ for kind in type(error).__mro__]
        assert self.naive.end(index, how, self.now) in answer

    def wait(self, seconds: float) -> None:
        self.now += dt.timedelta(seconds=seconds)

    def wait_for_lapse(self, index: int, microseconds: int) -> None:
        """Step to a hair before, at, or behind the instant at which a reservation lapses."""
        if index < len(self.ids):
            lapse = self.naive.bookings[index].expires_at + dt.timedelta(microseconds=microseconds)
            self.now = max(self.now, lapse)
