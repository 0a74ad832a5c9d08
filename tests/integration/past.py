"""Histories of which much is past use."""

from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import UUID

import time_machine
from pytest_django import Settings

from allowance import allowance, reservations
from allowance.ledger import KEPT_BLOCKS
from allowance.models import LedgerCheck
from receipts.models import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt
from routing.access import signatures, tokens
from routing.models import Rejection, UsedSignature
from routing.upkeep.pruning import SLACK
from tests import rows
from tests.clock import DAY, HOUR, NOW
from tests.factories import job_request
from tests.jobs import routed
from tests.ledgers import CLASS, FIRST_BLOCK, NEWEST, fill_ledger
from tests.rows import decided, mint, report

PAST = NOW - SLACK
"""What was over by then is past use if it needs not be kept for any days."""

JUMP = NEWEST + KEPT_BLOCKS + 1
"""A block by which no balance remembers those of `fill`."""


def fill(*hotkeys: str) -> None:
    """Record 21 blocks of long ago; see `fill_ledger`."""
    with time_machine.travel(NOW - 9 * DAY, tick=False):
        fill_ledger(*hotkeys)


def check(at: dt.datetime) -> None:
    LedgerCheck.objects.create(at=at, seconds=1, accounts=1, reservations=1, differences=0, left=0)


SIDES: dict[str, Any] = {"miner_hotkey": "anna", "validator_hotkey": "us"}


def start(until: dt.datetime, job: UUID) -> None:
    JobStartedReceipt.objects.create(**SIDES, job_uuid=job, executor_class=CLASS, timestamp=until - HOUR, ttl=3600)


def accept(until: dt.datetime, job: UUID) -> None:
    at = until - HOUR
    JobAcceptedReceipt.objects.create(**SIDES, job_uuid=job, timestamp=at, time_accepted=at, ttl=3600)


def finish(at: dt.datetime, job: UUID) -> None:
    JobFinishedReceipt.objects.create(**SIDES, job_uuid=job, timestamp=at, time_started=at, time_took_us=1)


def reserve(now: dt.datetime, miner: str = "anna", job: UUID | None = None, seconds: float = 6) -> int:
    start = allowance().get_current_block()
    return rows.reserve(miner, seconds, job=job, now=now, start=start)


def jump(number: int = JUMP, at: dt.datetime = NOW, hotkeys: list[str] | None = None) -> None:
    with time_machine.travel(max(at, NOW), tick=False):  # no block comes from the future
        mint(number, at, hotkeys=hotkeys)


def find() -> object:
    """Return who has how much allowance, or why nobody has any, and who is registered."""
    start = allowance().get_current_block()
    try:
        found: object = allowance().find_miners_with_allowance(
            allowance_seconds=1, executor_class=CLASS, job_start_block=start
        )
    except Exception as error:
        found = str(error)
    return found, [miner.hotkey_ss58 for miner in allowance().miners()]


def record_history(settings: Settings) -> None:
    """Record some of everything, of which much is past use; of some decisions only the candidates."""
    settings.ROUTING_KEEP_DECISIONS_DAYS = 1.5
    fill("anna", "bert", "carl", "dora")
    reserve(NOW - 2 * DAY, "dora")
    for days in (3, 2, 0):
        at = NOW - days * DAY
        for i, miner in enumerate(("anna", "bert")):
            job = UUID(int=10 * days + i)
            reservations.release(reserve(at, miner, job), now=at)
            reservations.spend(reserve(at, miner, job), now=at)
            reserve(at, miner)
            start(at, job)
            accept(at, job)
            finish(at, job)
            report(miner, at=at)
            Rejection.objects.create(miner=miner, job_uuid=job, executor_class=CLASS, timestamp=at, excused=True)
        decided(at=at, window_hours=None)
        check(at)
        tokens.issue("gone", ["jobs"], DAY, now=at - DAY)
        routed(job_request(3, on_trusted_miner=True), now=at)
        offer = routed(job_request(3), now=at)
        UsedSignature.objects.create(signatory="us", signed_at_ns=signatures.to_unix_ns(at), job_uuid=offer.uuid)
    decided(at=NOW - DAY, window_hours=None, candidates={"columns": [], "rows": [], "excluded": []})
    jump(FIRST_BLOCK + 30, NOW - DAY, ["anna", "bert"])
    jump(FIRST_BLOCK + 31, NOW - DAY)
    for i in range(12):
        jump(JUMP + 10 + i, NOW + dt.timedelta(seconds=12 * i))
