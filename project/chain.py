"""The demo's chain: a recorded subnet that is played again and again, and a follower of it on a simulated clock."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from allowance.follow.adapters import chain_source, validator
from allowance.follow.blocks import WINDOW
from allowance.follow.collateral import Reading, divided
from allowance.follow.conf import conf
from allowance.follow.following import AlreadyLed, Following
from allowance.follow.journal import Journal
from allowance.follow.lead import Lead
from allowance.follow.manifests import EVERY, sanitised


class Follower:
    """A follower on a simulated clock. It records what `manage.py follow_chain` would have recorded.

    The loops of the follower compare with the real clock, so this has its own order of events. `counts` are the
    recorded blocks and manifest syncs.
    """

    def __init__(self, journal: Journal, lead: Lead, loop: asyncio.AbstractEventLoop) -> None:
        self.journal, self.ask = journal, loop.run_until_complete
        self.counts = Counter[str]()
        self.following = Following(journal, None, None, hotkey=lead.hotkey, tell=self.count, limits=dict)
        self.following.lead = lead
        self.newest: int | None = None
        self.synced: int | None = None

    def count(self, event: str, **_facts: Any) -> None:
        """Count what was recorded."""
        self.counts[event] += 1

    def due(self, now: dt.datetime) -> range:
        """Return the numbers of the blocks to record at the time `now`. At first these are all that jobs can use."""
        self.journal.now = lambda: now
        last = self.journal.newest()
        return range(last - WINDOW if self.newest is None else self.newest + 1, last + 1)

    def record(self, number: int) -> None:
        """Record a block, and the manifests if a sync is due."""
        block = self.ask(self.journal.block(number))
        self.following.write_block(block)
        self.newest = number
        if self.synced is None or number >= self.synced + EVERY:
            answers = self.ask(self.journal.manifests(block, block.neurons))
            self.following.write_sync(sanitised(block, answers, conf.MANIFEST_LIMITS))
            self.synced = number

    def record_collateral(self) -> None:
        """Record the collateral of all miners at the newest block."""
        number = self.journal.newest()
        by_uid = self.ask(self.journal.evm_addresses(number))
        addresses = {n.hotkey: by_uid[n.uid] for n in self.journal.neurons(number) if n.uid in by_uid}
        deposits = self.ask(self.journal.collateral(number, list(by_uid.values())))
        self.following.write_collateral(Reading(number, divided(addresses, deposits)))


@contextmanager
def following() -> Iterator[Follower]:
    """Lead the followers of the database until the context ends. The settings say what is followed."""
    journal: Any = chain_source()
    with closing(asyncio.new_event_loop()) as loop:
        genesis = loop.run_until_complete(journal.genesis())
        lead = Lead(genesis=genesis, netuid=conf.NETUID, hotkey=validator(), source=journal.name)
        if not lead.take():
            raise AlreadyLed
        try:
            yield Follower(journal, lead, loop)
        finally:
            lead.release()
