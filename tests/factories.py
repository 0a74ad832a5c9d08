"""What several tests begin with."""

from __future__ import annotations

import datetime as dt

from django.utils import timezone

from allowance import allowance
from allowance.types import ExecutorClass

CLASS = ExecutorClass.always_on__gpu_24gb.value
FIRST_BLOCK = 1000


def fill_ledger(*hotkeys: str, blocks: int = 21, executors: int = 2) -> None:
    """Record `blocks` blocks of 12 s up to now, in each of which each miner owes us 6 s per executor of CLASS.

    The newest block owes nothing yet. The miners listen at 10.0.0.1, 10.0.0.2, ….
    """
    start = timezone.now() - dt.timedelta(seconds=12 * blocks)
    for i in range(blocks):
        allowance().record_block(
            number=FIRST_BLOCK + i,
            timestamp=start + dt.timedelta(seconds=12 * i),
            stake_share=0.5,
            hotkeys=hotkeys if i == 0 else None,
        )
    allowance().record_manifests(
        block=FIRST_BLOCK,
        axons={name: {"address": f"10.0.0.{i}", "ip_version": 4, "port": 9000} for i, name in enumerate(hotkeys, 1)},
        executors={name: {CLASS: executors} for name in hotkeys},
    )
