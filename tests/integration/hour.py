"""An hour of routing, and what is measured of it."""

from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import uuid4

import time_machine
from constance import config

from allowance.models import Account, Block, LedgerCheck, NeuronList, Reservation, ReservationState
from routing.models import DecisionRecord
from routing.watch.findings import Finding
from routing.watch.status import Status, status
from tests.clock import HOUR, MINUTE, SECOND
from tests.follower import follow_all, report
from tests.ledgers import CLASS, FIRST_BLOCK, fill_ledger
from tests.rows import declare

NOW = dt.datetime(2026, 1, 2, 12, 30, tzinfo=dt.UTC)
SPENT, RELEASED, EXPIRED = ReservationState.SPENT, ReservationState.RELEASED, ReservationState.EXPIRED

VALUES: dict[str, float] = {
    "block_age": 12,
    "block_gaps": 2,
    "blocks_without_stake": 1,
    "missing_miners": 100,
    "silent_miners": 100,
    "collateral_filter": 0,
    "manifest_age": 240,
    "refusals": 40,
    "not_enough_allowance": 20,
    "not_enough_collateral": 10,
    "all_miners_busy": 7.5,
    "lock_timeout": 2.5,
    "expired_reservations": 15,
    "live_reservations": 50,
    "lock_waits": 10,
    "longest_lock_wait": 1.5,
    "most_jobs": 62.5,
    "most_seconds": 66 + 2 / 3,
    "ledger_differences": 2,
    "ledger_check_age": 3 * 3600,
    "follower_heartbeat": 4,
    "source_blocks": 30,
    "source_manifests": 600,
    "source_collateral": 300,
    "source_receipts": 30,
    "source_settings": 30,
    "failures_in_a_row": 3,
    "unreadable_blocks": 1,
    "discarded_blocks": 1,
    "manifests_held_back": 1,
    "unknown_collateral": 2 * 3600,
    "shared_collateral": 0,
}
"""What the hour comes to."""

NEVER: dict[str, list[float]] = {name: [10**9, 10**9] for name in VALUES}
"""Limits that nothing is above."""


def decide(number: int = 1, outcome: str = "ROUTED", miner: str = "", **fields: Any) -> None:
    """Store so many decisions."""
    what = {"job_uuid": uuid4(), "at": NOW - MINUTE, "executor_class": CLASS, "seconds": 30, "window_hours": 24}
    DecisionRecord.objects.bulk_create(
        DecisionRecord(**{**what, "microseconds": 5000, "outcome": outcome, "miner": miner, **fields})
        for _ in range(number)
    )


def reserve(number: int, state: ReservationState, ended_at: dt.datetime | None, expires_at: dt.datetime) -> None:
    """Store so many reservations."""
    account = Account.objects.get(miner="hot-1")
    what = {"account": account, "blocks": [FIRST_BLOCK], "created_at": NOW - 3 * HOUR, "expires_at": expires_at}
    Reservation.objects.bulk_create(Reservation(**what, state=state, ended_at=ended_at) for _ in range(number))


def check(**fields: Any) -> None:
    """Store that the ledger was checked."""
    what = {"at": NOW - 3 * HOUR, "seconds": 1, "accounts": 2, "reservations": 9, "differences": 3, "left": 2}
    LedgerCheck.objects.create(**{**what, **fields})


def fill() -> None:
    """Fill an hour, with whatever must not count just outside."""
    with time_machine.travel(NOW, tick=False):
        fill_ledger("hot-1", "hot-2")
        declare({}, FIRST_BLOCK + 1, asked=["hot-1", "hot-2"])
    Block.objects.filter(number__in=[FIRST_BLOCK + 3, FIRST_BLOCK + 5]).delete()
    Block.objects.filter(number=FIRST_BLOCK + 7).update(stake_share=0)
    Block.objects.update(neurons=NeuronList.objects.create(digest="none", hotkeys=[]))
    config.DYNAMIC_MINIMUM_COLLATERAL_AMOUNT_WEI = 10**16
    decide(14, miner="hot-1")
    decide(1, miner="hot-1", at=NOW)
    decide(9, miner="hot-2", seconds=100, at=NOW - HOUR + SECOND)
    decide(4, "NOT_ENOUGH_ALLOWANCE")
    decide(4, "NOT_ENOUGH_ALLOWANCE", waited_us=250_000)
    decide(4, "NOT_ENOUGH_COLLATERAL")
    decide(3, "ALL_MINERS_BUSY")
    decide(1, "LOCK_TIMEOUT")
    newest = DecisionRecord.objects.filter(waited_us__gt=0).latest("pk")
    DecisionRecord.objects.filter(pk=newest.pk).update(waited_us=1_500_000)
    for outside in (NOW - HOUR, NOW + SECOND):
        decide(50, "ALL_MINERS_BUSY", at=outside, waited_us=9_000_000)
    decide(50, miner="debug", window_hours=None)
    later = NOW + HOUR
    reserve(15, SPENT, NOW, later)
    reserve(2, RELEASED, NOW - HOUR + SECOND, later)
    reserve(1, EXPIRED, NOW - MINUTE, NOW - MINUTE)
    reserve(1, ReservationState.HELD, None, NOW)
    reserve(1, ReservationState.HELD, None, NOW - HOUR + SECOND)
    reserve(50, ReservationState.HELD, None, NOW + SECOND)
    reserve(50, ReservationState.HELD, None, NOW - HOUR)
    reserve(50, SPENT, NOW - HOUR, later)
    reserve(50, EXPIRED, NOW - HOUR, NOW - HOUR)
    follow_all(NOW)
    report("collateral", NOW, good_at=NOW - 5 * MINUTE, unknown={"hot-1": (NOW - 2 * HOUR).isoformat()})
    check(at=NOW - 4 * HOUR, left=9)
    check()


def by_name(found: Status) -> dict[str, Finding]:
    return {finding.name: finding for finding in found.findings}


def find(name: str) -> Finding:
    return by_name(status(NOW))[name]
