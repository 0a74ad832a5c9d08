"""A ledger to begin with. It is recorded once in a process, and copied from then on: that takes a tenth of the time."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.db import models, transaction
from django.utils import timezone

from allowance import allowance
from allowance.models import Account, Block, ChainLock, ManifestSync, Miner, NeuronList, new_version
from allowance.plumbing.database import alias

CLASS = "always_on.gpu-24gb"
FIRST_BLOCK = 1000
NEWEST = FIRST_BLOCK + 20
"""The newest block of `fill_ledger`."""

Rows = dict[type[models.Model], list[dict[str, Any]]]
TABLES: tuple[type[models.Model], ...] = (ChainLock, NeuronList, Block, Miner, Account, ManifestSync)
"""What `fill_ledger` writes, each table before those that refer to it."""

recorded: dict[tuple[object, ...], Rows] = {}
"""The rows of each ledger that was recorded into an empty database."""


def fill_ledger(*hotkeys: str, blocks: int = 21, executors: int = 2) -> None:
    """Record `blocks` blocks of 12 s up to now, in each of which each miner owes us 6 s per executor of CLASS.

    The newest block owes nothing yet. The miners listen at 10.0.0.1, 10.0.0.2, ….
    """
    start, key = timezone.now() - dt.timedelta(seconds=12 * blocks), (hotkeys, blocks, executors)
    with transaction.atomic(alias()):  # one for all, because most tests begin with this
        empty = not any(table._default_manager.exists() for table in TABLES)
        if empty and key in recorded:
            copy(recorded[key], start)
            return
        record(hotkeys, blocks, executors, start)
        if empty:
            recorded[key] = rows()


def record(hotkeys: tuple[str, ...], blocks: int, executors: int, start: dt.datetime) -> None:
    """Record a ledger as a follower does."""
    axons = {name: {"address": f"10.0.0.{i}", "ip_version": 4, "port": 9000} for i, name in enumerate(hotkeys, 1)}
    for i in range(blocks):
        allowance().record_block(
            number=FIRST_BLOCK + i,
            timestamp=start + dt.timedelta(seconds=12 * i),
            stake_share=0.5,
            hotkeys=hotkeys if i == 0 else None,
        )
    executors_of = {name: {CLASS: executors} for name in hotkeys}
    allowance().record_manifests(block=FIRST_BLOCK, axons=axons, executors=executors_of)


def rows() -> Rows:
    """Return the rows of all TABLES, without the ids that the database gives."""
    return {
        table: [
            {name: value for name, value in row.items() if name != "id" or table is ChainLock}
            for row in table._default_manager.order_by("pk").values()
        ]
        for table in TABLES
    }


def copy(found: Rows, start: dt.datetime) -> None:
    """Insert the rows of a ledger with new versions and, from `start` on, new times."""
    shift = start - found[Block][0]["timestamp"] if found[Block] else dt.timedelta()
    for table in TABLES:
        made = []
        for row in found[table]:
            new = dict(row)
            if "version" in new:
                new["version"] = new_version()
            if table is Block:
                new["timestamp"] += shift
                new["neurons_id"] = new["neurons_id"] and NeuronList.objects.values_list("pk", flat=True).get()
            made.append(table(**new))
        table._default_manager.bulk_create(made)
