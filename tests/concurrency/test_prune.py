"""Routing and a follower go on while a prune runs: nothing of theirs is lost. Without the account's lock, it is."""

from __future__ import annotations

import datetime as dt

import pytest
import time_machine
from django.db import connection
from django.utils import timezone

from allowance import allowance, reservations
from allowance.ledger import KEPT_BLOCKS
from allowance.models import Block, Reservation
from allowance.oversight.audit import check_ledger
from routing.incidents import record_incident
from tests.concurrency.processes import Crew
from tests.factories import job_request
from tests.ledgers import CLASS, FIRST_BLOCK, fill_ledger

MINERS = ("anna", "bert", "cleo")
OLD_BLOCKS, BLOCKS, LIVES = 30, 60, 16
NEWEST = FIRST_BLOCK + OLD_BLOCKS + KEPT_BLOCKS + BLOCKS
DAY = dt.timedelta(days=1)


def fill() -> None:
    """Record days of old, with reservations that ended in every way, and an hour of now."""
    now = timezone.now()
    with time_machine.travel(now - 9 * DAY, tick=False):
        fill_ledger(*MINERS, blocks=OLD_BLOCKS, executors=20)
    for miner in MINERS:
        for number, end in enumerate((reservations.spend, reservations.release, None) * 8):
            at = now - 8 * DAY + number * dt.timedelta(hours=1)
            pk, job = reserve(miner, at), job_request().uuid
            if end:
                end(pk, now=at)
            record_incident(
                incident_type="MINER_JOB_FAILED", hotkey=miner, job_uuid=job, executor_class=CLASS, timestamp=at
            )
    for number in range(BLOCKS + 1):
        timestamp = now - (BLOCKS - number) * dt.timedelta(seconds=12)
        allowance().record_block(number=NEWEST - BLOCKS + number, timestamp=timestamp, stake_share=0.5)


def reserve(miner: str, at: dt.datetime) -> int:
    start = allowance().get_current_block()
    return reservations.reserve(
        miner=miner, executor_class=CLASS, seconds=120, job_start_block=start, job_uuid=None, now=at
    ).pk


@pytest.mark.usefixtures("ledger_clean_at_the_end")
def test_routing_and_a_follower_go_on_while_a_prune_runs(crew: Crew) -> None:
    fill()
    old = set(Reservation.objects.values_list("pk", flat=True))
    first, second, follower, pruner = crew.call(4)
    for router in (first, second):
        router.tell("lives", times=LIVES, seconds=30)
    pruner.tell("prune", batch=1)
    for number in range(1, 9):
        timestamp = timezone.now() + number * dt.timedelta(seconds=12)
        word = follower.ask("block", number=NEWEST + number, timestamp=timestamp.isoformat(), hotkeys=[*MINERS])
        assert word["error"] is None
    pruned = pruner.answer()
    words = first.answer() + second.answer()

    assert [word["error"] for word in words] == [None] * len(words)
    assert pruned["result"]["locked"] == []
    assert pruned["result"]["rows"]["reservations"] == len(old)
    assert pruned["result"]["rows"]["incidents"] == len(old)
    assert pruned["result"]["rows"]["blocks"] == OLD_BLOCKS - 1
    routes = {word["result"]["reservation"]: word["result"] for word in words if word["what"] == "pick"}
    ends = {word["reservation"]: word["what"] for word in words if word["what"] in {"spend", "undo"}}
    stored = {r.pk: r for r in Reservation.objects.select_related("account")}
    assert stored.keys() == routes.keys()
    for pk, route in routes.items():
        end = {"spend": "spent", "undo": "released", None: "held"}[ends.get(pk)]
        assert (stored[pk].account.miner_id, stored[pk].blocks, stored[pk].state) == (
            route["miner"],
            route["blocks"],
            end,
        )
    taken = [(r["miner"], block) for pk, r in routes.items() if ends.get(pk) != "undo" for block in r["blocks"]]
    assert len(taken) == len(set(taken))
    assert set(Block.objects.filter(number__gt=NEWEST).values_list("number", flat=True)) == {
        NEWEST + number for number in range(1, 9)
    }


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has no row lock to take away")
@pytest.mark.parametrize("without", ["", "lock_account"], ids=["race", "control without lock_account"])
@pytest.mark.parametrize("stop", ["before allowance.reservations.tidy", "before allowance.ledger.rebase"])
def test_a_pick_waits_for_the_prune_of_its_account(crew: Crew, stop: str, without: str) -> None:
    """The prune has read the account, and will store what is held there."""
    fill()
    pruner, router = crew.call(2)
    pruner.tell("prune", batch=100, stop=stop, without=without)
    assert pruner.stopped() == stop
    router.tell("reserve", seconds=30, miner="anna", start=NEWEST, without=without)
    waited = router.waits_for(pruner)
    picked = None if waited else router.answer()
    pruner.go_on()
    assert pruner.answer()["error"] is None
    picked = picked or router.answer()
    assert picked["error"] is None
    assert waited == (not without)
    assert bool(list(check_ledger())) == bool(without)
    assert Reservation.objects.filter(pk=picked["result"]["reservation"]).exists()
