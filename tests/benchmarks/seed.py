"""Fill a database with a subnet's history, and with what its miners and validators did."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from django.core.management import call_command
from django.db import connection, transaction
from django.utils import timezone

from allowance import allowance, ledger, reading
from allowance.models import Account, Reservation, ReservationState
from allowance.types import ExecutorClass
from receipts.models import JobFinishedReceipt, JobStartedReceipt
from routing import routing
from routing.models import MinerIncident
from routing.types import MinerIncidentType
from tests.benchmarks.sizes import FIRST_BLOCK, Subnet
from tests.live.miners import ScriptedMiner

CLASSES = sorted(ExecutorClass)  # jobs ask for the first
VALIDATOR = "validator"
BETWEEN_MANIFESTS = 25
HOUR = dt.timedelta(hours=1)


def migrate(database: str) -> None:
    """Make the tables in an empty database."""
    with _connected(database):
        call_command("migrate", verbosity=0)


def seed(database: str, **subnet: Any) -> Iterator[tuple[int, int]]:
    """Fill a migrated database with a `Subnet`, newest block now, and yield (done, of how many) blocks."""
    what, rng, now = Subnet(**subnet), random.Random(7), timezone.now()
    numbers = range(what.miners)
    names = [ScriptedMiner(i, "").hotkey if what.scripted else f"miner_{i:04d}" for i in numbers]
    with _connected(database):
        yield from _history(rng, names, now, what)
        _incidents(rng, names, now, what)
        _receipts(rng, names, now, what)
        _reservations(rng, now, what)


@contextmanager
def _connected(database: str) -> Iterator[None]:
    """Let the connection be to a database of the same server; nobody copies one that somebody is connected to."""
    connection.settings_dict["NAME"] = database
    try:
        yield
    finally:
        connection.close()


def _history(rng: random.Random, names: list[str], now: dt.datetime, what: Subnet) -> Iterator[tuple[int, int]]:
    """Record the blocks and one more, the newest, which has earned nothing yet."""
    axons = {n: {"address": f"10.0.{i // 250}.{i % 250}", "ip_version": 4, "port": 8000} for i, n in enumerate(names)}
    classes = [str(c) for c in CLASSES[: what.classes]]
    for start in range(0, what.blocks + 1, BETWEEN_MANIFESTS):
        with transaction.atomic():  # a commit for each would take most of the time
            for i in range(start, min(start + BETWEEN_MANIFESTS, what.blocks + 1)):
                at = now - dt.timedelta(seconds=12 * (what.blocks - i))
                share = 0.1 + 0.05 * rng.random()
                allowance().record_block(number=FIRST_BLOCK + i, timestamp=at, stake_share=share, hotkeys=names)
            executors = {n: {c: what.executors + (rng.random() < what.changing) for c in classes} for n in names}
            allowance().record_manifests(block=FIRST_BLOCK + start, axons=axons, executors=executors)
        yield min(start + BETWEEN_MANIFESTS, what.blocks), what.blocks
    with transaction.atomic():
        for name in names:
            allowance().record_collateral(hotkey=name, wei=10**18)


def _incidents(rng: random.Random, names: list[str], now: dt.datetime, what: Subnet) -> None:
    """Store incidents of the last 23 hours, the last of each class by the public way."""
    types, classes = list(MinerIncidentType), CLASSES[: what.classes] if what.incidents else []
    rows = [
        MinerIncident(
            type=rng.choice(types),
            timestamp=now - 23 * HOUR * rng.random(),
            hotkey_ss58address=rng.choice(names),
            job_uuid=_uuid(rng),
            executor_class=rng.choice(classes),
        )
        for _ in range(what.incidents - len(classes))
    ]
    MinerIncident.objects.bulk_create(rows, batch_size=5000)
    for executor_class in classes:
        routing().report_incident(rng.choice(types), rng.choice(names), str(_uuid(rng)), executor_class)


def _receipts(rng: random.Random, names: list[str], now: dt.datetime, what: Subnet) -> None:
    """Store receipts of jobs that are over, and of ongoing ones, which outlast the measurements."""
    started, finished = [], []
    for i in range(what.receipts):
        over = i >= what.ongoing
        at = now - dt.timedelta(seconds=rng.uniform(400, 80_000) if over else rng.uniform(0, 200))
        common = {"job_uuid": _uuid(rng), "miner_hotkey": rng.choice(names), "validator_hotkey": VALIDATOR}
        executor_class = rng.choice(CLASSES[: what.classes])
        ttl = 300 if over else 3600
        started.append(JobStartedReceipt(**common, timestamp=at, executor_class=executor_class, ttl=ttl))
        if over:
            end = at + dt.timedelta(seconds=200)
            finished.append(
                JobFinishedReceipt(**common, timestamp=end, time_started=at, time_took_us=200_000_000, score_str="1")
            )
    JobStartedReceipt.objects.bulk_create(started, batch_size=5000)
    JobFinishedReceipt.objects.bulk_create(finished, batch_size=5000)


def _reservations(rng: random.Random, now: dt.datetime, what: Subnet) -> None:
    """Spend most and keep a tenth held, for an hour, which outlasts the measurements."""
    usable, accounts = reading.window(None), list(Account.objects.select_related("miner").order_by("pk"))
    for account in accounts:
        account.base = max(0, (usable.newest or 0) - ledger.KEPT_BLOCKS)
    rows: list[Reservation] = []
    while len(rows) < what.reservations:
        account = rng.choice(accounts)
        blocks = ledger.take(usable, account.balance, ledger.to_ns(rng.choice([30.0, 120.0, 300.0])))
        if blocks is None:
            continue
        reservation = Reservation(
            account=account, job_uuid=_uuid(rng), blocks=blocks, created_at=now, expires_at=now + HOUR
        )
        bits = ledger.to_bits(blocks, account.base)
        if len(rows) % 10:
            reservation.state, reservation.ended_at = ReservationState.SPENT, now
            account.spent |= bits
        else:
            account.held |= bits
        rows.append(reservation)
    Reservation.objects.bulk_create(rows)
    Account.objects.bulk_update(accounts, ["base", "held", "spent"], batch_size=512)


def _uuid(rng: random.Random) -> UUID:
    return UUID(int=rng.getrandbits(128), version=4)
