"""Routers in several processes never share a block or an executor; with the lock off, they do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from django.db import connection

from allowance.models import Reservation
from tests.concurrency.processes import Crew, Word
from tests.ledgers import fill_ledger

PROCESSES, PICKS = 4, 4


class Picked(NamedTuple):
    """What a router's caller got: the route's miner and blocks, or the refusal's name."""

    miner: str
    blocks: list[int]
    refusal: str | None


def picked(words: Sequence[Word]) -> list[Picked]:
    return [
        Picked("", [], word["error"])
        if word["error"]
        else Picked(word["result"]["miner"], word["result"]["blocks"], None)
        for word in words
    ]


def pick_side_by_side(crew: Crew, *, seconds: float) -> list[Picked]:
    """Let all processes pick at once, several times each."""
    processes = crew.call(PROCESSES)
    for process in processes:
        process.tell("picks", times=PICKS, seconds=seconds, pause=0.04)
    return picked([word for process in processes for word in process.answer()])


def pick_without_lock(crew: Crew, *, seconds: float) -> list[Picked]:
    """Let all processes pick once, without the account's lock: none writes before all have read."""
    processes = crew.call(PROCESSES)
    for process in processes:
        process.tell("pick", seconds=seconds, stop="before allowance.reservations.hold", without="lock_account")
    for process in processes:
        process.stopped()
    for process in processes:
        process.go_on()
    return picked([process.answer() for process in processes])


def given_again(routes: Sequence[Picked]) -> int:
    """Return how many blocks of a miner were given more than once."""
    given = [(route.miner, block) for route in routes for block in route.blocks]
    return len(given) - len(set(given))


@pytest.mark.usefixtures("ledger_clean_at_the_end")
def test_no_block_is_given_twice(crew: Crew) -> None:
    fill_ledger("anna", "bert", blocks=60, executors=20)
    routes = pick_side_by_side(crew, seconds=300)
    assert [route.refusal for route in routes] == [None] * (PROCESSES * PICKS)
    assert given_again(routes) == 0
    stored = Reservation.objects.values_list("account__miner", "blocks")
    assert sorted((route.miner, route.blocks) for route in routes) == sorted(stored)


@pytest.mark.usefixtures("ledger_clean_at_the_end")
def test_no_executor_is_shared(crew: Crew) -> None:
    fill_ledger("anna", "bert", "cleo", blocks=200, executors=2)
    routes = pick_side_by_side(crew, seconds=30)
    assert Counter(route.miner for route in routes if route.miner) == {"anna": 2, "bert": 2, "cleo": 2}
    assert Counter(route.refusal for route in routes if route.refusal) == {"AllMinersBusy": PROCESSES * PICKS - 6}


row_locks = pytest.mark.skipif(
    connection.vendor == "sqlite", reason="SQLite has no row lock to take away: BEGIN IMMEDIATE is its lock"
)


@row_locks
def test_control_without_the_lock_blocks_are_given_twice(crew: Crew) -> None:
    fill_ledger("anna", "bert", blocks=60, executors=20)
    assert given_again(pick_without_lock(crew, seconds=300)) > 0


@row_locks
def test_control_without_the_lock_executors_are_shared(crew: Crew) -> None:
    fill_ledger("anna", blocks=200, executors=1)
    assert Counter(route.miner for route in pick_without_lock(crew, seconds=30)) == {"anna": PROCESSES}
