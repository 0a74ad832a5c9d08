"""Fill a database with a subnet of the size that the figures in the README are for."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator
from uuid import UUID

from django.db import connection, transaction

from allowance import allowance, ledger, reservations, state
from allowance.locks import lock_account
from allowance.models import Account
from allowance.types import ExecutorClass
from receipts.models import JobFinishedReceipt, JobStartedReceipt
from routing.models import MinerIncident
from routing.types import MinerIncidentType

CLASSES = (ExecutorClass.always_on__gpu_24gb, ExecutorClass.always_on__llm__a6000)
VALIDATOR = "validator"


def seed(
    *, now: dt.datetime, miners: int, blocks: int, incidents: int, receipts: int, ongoing: int, held: int
) -> Iterator[tuple[int, int]]:
    """Seed, newest block at `now`, and yield (done, of how many) on the way."""
    rng = random.Random(7)
    names = [f"miner_{i:04d}" for i in range(miners)]
    axons = {n: {"address": f"10.0.{i // 250}.{i % 250}", "ip_version": 4, "port": 8000} for i, n in enumerate(names)}
    for i in range(blocks):
        at = now - dt.timedelta(seconds=12 * (blocks - 1 - i))
        allowance().record_block(
            number=1000 + i, timestamp=at, stake_share=0.1 + 0.05 * rng.random(), hotkeys=names if i == 0 else None
        )
        if i % 25 == 0:
            executors = {n: {str(c): 8 + (rng.random() < 0.05) for c in CLASSES} for n in names}
            allowance().record_manifests(block=1000 + i, axons=axons, executors=executors)
        yield i, blocks
    MinerIncident.objects.bulk_create(
        [
            MinerIncident(
                type=rng.choice(MinerIncidentType.values),
                timestamp=now - dt.timedelta(hours=23 * rng.random()),
                hotkey_ss58address=rng.choice(names),
                job_uuid=_uuid(rng),
                executor_class=rng.choice(CLASSES),
            )
            for _ in range(incidents)
        ],
        batch_size=5000,
    )
    _receipts(rng, names, now, receipts, ongoing)
    _reservations(rng, names, now, held)
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")  # as autovacuum leaves it, soon after


def _receipts(rng: random.Random, names: list[str], now: dt.datetime, past: int, ongoing: int) -> None:
    started, finished = [], []
    for i in range(past + ongoing):
        uuid, name, over = _uuid(rng), rng.choice(names), i < past
        at = now - dt.timedelta(seconds=rng.uniform(400, 80_000) if over else rng.uniform(0, 200))
        common = {"job_uuid": uuid, "miner_hotkey": name, "validator_hotkey": VALIDATOR}
        started.append(JobStartedReceipt(**common, timestamp=at, executor_class=rng.choice(CLASSES), ttl=300))
        if over:
            end = at + dt.timedelta(seconds=200)
            finished.append(
                JobFinishedReceipt(**common, timestamp=end, time_started=at, time_took_us=200_000_000, score_str="1")
            )
    JobStartedReceipt.objects.bulk_create(started, batch_size=5000)
    JobFinishedReceipt.objects.bulk_create(finished, batch_size=5000)


def _reservations(rng: random.Random, names: list[str], now: dt.datetime, count: int) -> None:
    """Spend most, keep a tenth held."""
    usable = state.window(None)
    for i in range(count):
        with transaction.atomic():
            account = lock_account(miner=rng.choice(names), executor_class=rng.choice(CLASSES))
            assert isinstance(account, Account)
            balance = account.balance
            seconds = rng.choice([30.0, 120.0, 300.0])
            blocks = ledger.take(usable, balance, ledger.to_ns(seconds))
            if blocks is None:
                continue
            made = reservations.hold(
                account, balance, blocks, seconds=seconds, job_uuid=_uuid(rng), now=now, newest=usable.newest or 0
            )
        if i % 10:
            reservations.spend(made.pk, now=now)


def _uuid(rng: random.Random) -> UUID:
    return UUID(int=rng.getrandbits(128), version=4)
