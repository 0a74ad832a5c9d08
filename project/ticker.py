"""A chain for the demo while it is served: a new block every 12 s, and a manifest sync every BLOCKS_PER_SYNC blocks."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from threading import Event, Thread

from django import db

from allowance import allowance
from allowance.interface import clock
from allowance.models import ManifestSync
from allowance.types import AllowanceException
from project.past import MINTED_EACH

BLOCKS_PER_SYNC = 25
"""The number of blocks from one manifest sync to the next: five minutes."""

logger = logging.getLogger(__name__)


@contextmanager
def minting() -> Iterator[None]:
    """Mint blocks in a thread until the context ends."""
    over = Event()
    thread = Thread(target=mint_until, args=(over,), name="ticker", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def mint_until(over: Event) -> None:
    """Mint a block at once, and one every 12 s until `over` is set. A failure is logged, and minting goes on."""
    try:
        for n in count():
            try:
                mint(with_manifests=n % BLOCKS_PER_SYNC == 0)
            except (db.Error, AllowanceException, ValueError):
                logger.exception("A block could not be recorded")
            if over.wait(MINTED_EACH.total_seconds()):
                return
    finally:
        db.connection.close()


def mint(*, with_manifests: bool) -> None:
    """Record the block after the newest. With `with_manifests`, record the newest manifest sync again at this block."""
    number, share = allowance().get_current_block() + 1, random.uniform(0.09, 0.14)  # noqa: S311
    allowance().record_block(number=number, timestamp=clock.now(), stake_share=share)
    if with_manifests:
        newest = ManifestSync.objects.latest("block")
        allowance().record_manifests(block=number, axons=newest.axons, executors=newest.executors)
