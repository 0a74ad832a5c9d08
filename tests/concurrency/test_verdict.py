"""The judge judges: histories made by hand, right ones and wrong ones."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest

from tests.concurrency.verdict import Evidence, Moment, Neurons, Route, Row, Run, Said, Sync, judge

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def at(second: float) -> Moment:
    return START + dt.timedelta(seconds=second)


def row(reservation: int, made: float, state: str = "held", ended: float | None = None, **changes: Any) -> Row:
    """Return a reservation of anna's block 1, held for 10 s."""
    known = Row(
        reservation,
        "anna",
        "big",
        f"job {reservation}",
        (1,),
        at(made),
        at(made + 10),
        state,
        None if ended is None else at(ended),
    )
    return replace(known, **changes)


def ended(what: str, reservation: int, second: float, error: str | None = None) -> Said:
    return Said(what, at(second), at(second + 0.1), error, error, reservation)


def history(*rows: Row, executors: int = 1, **evidence: Any) -> Evidence:
    """Return what was seen if every reservation was given to a caller, and anna's executors were known before."""
    told = Evidence(
        routes=[
            Route(r.reservation, r.miner, r.executor_class, r.job, r.blocks, r.made, r.made + dt.timedelta(seconds=0.1))
            for r in rows
        ],
        rows=rows,
        said=[
            ended({"spent": "spend", "released": "undo"}[r.state], r.reservation, (r.ended - START).total_seconds())
            for r in rows
            if r.ended and r.state in {"spent", "released"}
        ],
        syncs=[Sync(1, {"anna": {"big": executors}}, at(-99), at(-98))],
        neurons=[Neurons(frozenset({"anna"}), at(-99), at(-98))],
    )
    return replace(told, **evidence)


def kinds(evidence: Evidence) -> list[str]:
    return [sentence.partition(":")[0] for sentence in judge(evidence)]


SYNCS = history().syncs
NEURONS = history().neurons
OTHER = (2,)
BOTH = [replace(SYNCS[0], executors={"anna": {"big": 1}, "bert": {"big": 1}})]
ALL = [replace(NEURONS[0], hotkeys=frozenset({"anna", "bert"}))]
LIES = [
    ("ReservationAlreadySpent", row(1, 0)),
    ("ReservationReleased", row(1, 0, "spent", 1)),
    ("ReservationExpired", row(1, 0)),
    ("ReservationNotFound", row(1, 0)),
]


@pytest.mark.parametrize(
    "evidence",
    [
        history(row(1, 0), row(2, 10)),
        history(row(1, 0, "expired", 10), row(2, 10)),
        history(row(1, 0, "released", 5), row(2, 5)),
        history(row(1, 0, "spent", 5), row(2, 5, blocks=OTHER)),
        history(row(1, 0), row(2, 1, blocks=OTHER), executors=2),
        history(row(1, 0), row(2, 1, miner="bert"), syncs=BOTH, neurons=ALL),
    ],
    ids=["expired unseen", "expired", "released", "spent", "two executors", "two miners"],
)
def test_a_right_history_has_no_fault(evidence: Evidence) -> None:
    assert kinds(evidence) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (row(1, 0), row(2, 9)),
        (row(1, 0, "expired", 10), row(2, 9)),
        (row(1, 0, "released", 5), row(2, 4)),
        (row(1, 0, "spent", 5), row(2, 99)),
    ],
    ids=["held", "expired", "released", "spent"],
)
def test_a_block_given_twice(first: Row, second: Row) -> None:
    assert kinds(history(first, second, executors=2)) == ["block given twice"]


def test_a_block_given_again_after_a_short_life_within_a_long_one() -> None:
    rows = row(1, 0, "spent", 1), row(2, 2, "released", 3), row(3, 4)
    assert kinds(history(*rows)) == ["block given twice"] * 2


def test_an_executor_shared_by_two_holds() -> None:
    assert kinds(history(row(1, 0), row(2, 9, blocks=OTHER))) == ["executor shared"]
    assert kinds(history(row(1, 0), row(2, 9, blocks=OTHER), executors=2)) == []
    assert kinds(history(row(1, 0), row(2, 9, blocks=OTHER), finished={"job 1": at(8)})) == []
    assert kinds(history(row(1, 0), row(2, 9, blocks=OTHER), finished={"job 1": at(9.5)})) == ["executor shared"]


def test_an_executor_shared_with_a_job_that_receipts_tell_of() -> None:
    spent, late = row(1, 0, "spent", 2), row(2, 5, blocks=OTHER)
    run = Run("anna", "big", "job 1", at(1), at(6))
    assert kinds(history(spent, late, runs=[run])) == ["executor shared"]
    assert kinds(history(spent, late, runs=[replace(run, until=at(4))])) == []
    assert kinds(history(spent, late, runs=[replace(run, since=at(5.5))])) == []
    assert kinds(history(spent, late, runs=[replace(run, executor_class="small")])) == []
    assert kinds(history(spent, late, runs=[run], finished={"job 1": at(4)})) == []


def test_a_job_that_is_held_and_runs_is_one() -> None:
    run = Run("anna", "big", "job 1", at(0), at(6))
    assert kinds(history(row(1, 0), runs=[run])) == []


def test_executors_are_those_declared_last() -> None:
    fewer = Sync(1, {"anna": {"big": 0}}, at(3), at(4))
    assert kinds(history(row(1, 5, blocks=(1,)), syncs=[*SYNCS, fewer])) == ["executor shared"]
    assert kinds(history(row(1, 3.5), syncs=[*SYNCS, fewer])) == []
    assert kinds(history(row(1, 2), syncs=[*SYNCS, fewer])) == []


def test_voided_blocks_given() -> None:
    drop = Sync(2, {"anna": {"big": 1}}, at(3), at(4))
    before = history(executors=2).syncs
    assert kinds(history(row(1, 5), syncs=[*before, drop])) == ["voided blocks given"]
    assert kinds(history(row(1, 5), syncs=[*SYNCS, drop])) == []
    assert kinds(history(row(1, 5, blocks=OTHER), syncs=[*before, drop])) == []
    assert kinds(history(row(1, 3.5), syncs=[*before, drop])) == []


def test_an_absent_miner_chosen() -> None:
    left, back = Neurons(frozenset(), at(3), at(4)), Neurons(frozenset({"anna"}), at(6), at(7))
    assert kinds(history(row(1, 5), neurons=[*NEURONS, left, back])) == ["absent miner chosen"]
    for second in (2, 3.5, 6.5, 8):
        assert kinds(history(row(1, second), neurons=[*NEURONS, left, back])) == []


def test_a_route_that_the_table_lacks_or_has_otherwise() -> None:
    assert kinds(replace(history(row(1, 0)), rows=[])) == ["route lost"]
    assert kinds(replace(history(row(1, 0)), rows=[row(1, 0, blocks=OTHER)])) == ["route differs"]
    assert kinds(replace(history(row(1, 0)), rows=[row(1, 1)])) == ["route differs"]
    assert kinds(replace(history(row(1, 0)), routes=[])) == ["held for nobody"]


def test_one_reservation_for_two_callers() -> None:
    seen = history(row(1, 0))
    assert kinds(replace(seen, routes=[*seen.routes, *seen.routes])) == ["route lost"]


@pytest.mark.parametrize(
    "said",
    [
        [],
        [ended("undo", 1, 5)],
        [ended("spend", 1, 5), ended("spend", 1, 6)],
        [ended("spend", 1, 5), ended("undo", 1, 6)],
    ],
    ids=["nobody did", "another", "twice", "in two ways"],
)
def test_an_end_that_callers_were_told_otherwise_of(said: list[Said]) -> None:
    assert kinds(history(row(1, 0, "spent", 5), said=said)) == ["end differs"]


def test_an_end_that_did_not_last() -> None:
    assert kinds(history(row(1, 0), said=[ended("spend", 1, 5)])) == ["end differs"]
    assert kinds(history(said=[ended("spend", 1, 5)])) == ["end differs"]


def test_an_end_after_the_lapse() -> None:
    assert kinds(history(row(1, 0, "spent", 10))) == ["ended too late"]
    assert kinds(history(row(1, 0, "expired", 9))) == ["expired at another instant"]


@pytest.mark.parametrize(("error", "reservation"), LIES, ids=[error for error, _ in LIES])
def test_an_untrue_refusal(error: str, reservation: Row) -> None:
    told = history(reservation)
    assert kinds(replace(told, said=[*told.said, ended("undo", 1, 5, error)])) == ["untrue refusal"]


@pytest.mark.parametrize(
    ("error", "reservation"),
    [
        ("ReservationAlreadySpent", row(1, 0, "spent", 1)),
        ("ReservationReleased", row(1, 0, "released", 1)),
        ("ReservationExpired", row(1, -6, "expired", 4)),
        ("ReservationExpired", row(1, -6)),
        ("ReservationNotFound", row(1, 5)),
        ("LockTimeout", row(1, 0)),
    ],
)
def test_a_true_refusal(error: str, reservation: Row) -> None:
    told = history(reservation)
    assert kinds(replace(told, said=[*told.said, ended("undo", 1, 5, error)])) == []


def test_errors_that_nobody_expects() -> None:
    said = [
        Said("pick", at(0), at(1), "AllMinersBusy", "AllMinersBusy"),
        Said("pick", at(0), at(1), "LockTimeout", "LockNotAvailable"),
        Said("pick", at(0), at(1), "LockTimeout", "DeadlockDetected"),
        Said("pick", at(0), at(1), "ReservationExpired", "ReservationExpired"),
        Said("block", at(0), at(1), "OperationalError", "ConnectionTimeout"),
    ]
    assert kinds(Evidence(said=said)) == ["deadlock", "unexpected error", "unexpected error"]
