"""Routers in several processes never share a block or an executor; with the lock off, they do."""

from __future__ import annotations

from collections import Counter

import pytest
from django.db import connection

from allowance.models import Reservation
from tests.concurrency.workers import overlaps, pick_side_by_side
from tests.factories import CLASS, fill_ledger

PROCESSES, PICKS = 4, 4
LONG = 1.0
"""Seconds to pause in a control: longer than any busy machine takes to get all processes into the same gap."""


@pytest.mark.usefixtures("ledger_clean_at_the_end")
def test_no_block_is_given_twice() -> None:
    fill_ledger("anna", "bert", blocks=60, executors=20)
    picked = pick_side_by_side(processes=PROCESSES, picks=PICKS, seconds=300, executor_class=CLASS)
    assert [p.refusal for p in picked] == [None] * (PROCESSES * PICKS)
    assert overlaps(picked) == 0
    stored = Reservation.objects.values_list("account__miner", "blocks")
    assert sorted((p.miner or "", p.blocks) for p in picked) == sorted(stored)


@pytest.mark.usefixtures("ledger_clean_at_the_end")
def test_no_executor_is_shared() -> None:
    fill_ledger("anna", "bert", "cleo", blocks=200, executors=2)
    picked = pick_side_by_side(processes=PROCESSES, picks=PICKS, seconds=30, executor_class=CLASS)
    assert Counter(p.miner for p in picked if p.miner) == {"anna": 2, "bert": 2, "cleo": 2}
    assert Counter(p.refusal for p in picked if p.refusal) == {"AllMinersBusy": PROCESSES * PICKS - 6}


row_locks = pytest.mark.skipif(
    connection.vendor == "sqlite", reason="SQLite has no row lock to take away: BEGIN IMMEDIATE is its lock"
)


@row_locks
@pytest.mark.django_db(transaction=True)
def test_control_without_the_lock_blocks_are_given_twice() -> None:
    fill_ledger("anna", "bert", blocks=60, executors=20)
    picked = pick_side_by_side(
        processes=PROCESSES, picks=1, seconds=300, executor_class=CLASS, locking=False, pause=LONG
    )
    assert overlaps(picked) > 0


@row_locks
@pytest.mark.django_db(transaction=True)
def test_control_without_the_lock_executors_are_shared() -> None:
    fill_ledger("anna", blocks=200, executors=1)
    picked = pick_side_by_side(
        processes=PROCESSES, picks=1, seconds=30, executor_class=CLASS, locking=False, pause=LONG
    )
    assert Counter(p.miner for p in picked)["anna"] > 1
