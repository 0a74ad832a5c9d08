"""A run of the chain follower: lead or stand by, and run the loops while leading."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from django import db

from allowance import chain
from allowance.follow.blocks import Blocks, record, stake_share
from allowance.follow.collateral import CollateralLoop, Reading
from allowance.follow.conf import conf
from allowance.follow.lead import Lead, LeadLost
from allowance.follow.manifests import ManifestLoop, Sync
from allowance.follow.reports import forget_other_reports, reported
from allowance.follow.running import FIRST_WAIT, LONGEST_WAIT, Loop, attempt, pause, run
from allowance.follow.sources import (
    SOURCE_FAILURES,
    ChainBlock,
    ChainSource,
    CollateralSource,
    ManifestSource,
    OtherChain,
)
from allowance.models import Block
from allowance.plumbing.errors import RefusedError
from allowance.plumbing.threads import in_database_thread
from allowance.types import LockTimeout

logger = logging.getLogger(__name__)

HEARTBEAT = 5.0
"""Seconds between two heartbeats of the leading follower."""

REFRESH = 12.0
"""Seconds between two readings of the newest block, if the follower does not record blocks itself."""

STANDBY = 1.0
"""Seconds between two tries to take the lead."""

CLOSING = 1.0
"""The maximum time (s) to close all connections."""

Tell = Callable[..., None]
"""A function that shows an event: `tell(event, **facts)`. Threads of the database call it."""


class AlreadyLed(RefusedError):
    """Another follower leads, so a single run can't record anything."""

    def __init__(self) -> None:
        super().__init__("Another follower follows the chain. Stop it first, or let it do the work.")


class Following:
    """The loops of a follower, and the lead under which they write."""

    def __init__(
        self,
        source: ChainSource,
        manifests: ManifestSource | None,
        collateral: CollateralSource | None,
        *,
        hotkey: str,
        tell: Tell,
        limits: Callable[[], Mapping[str, int]],
        accept_silence: bool = False,
    ) -> None:
        self.source, self.hotkey, self.tell = source, hotkey, tell
        self.lead: Lead | None = None
        poll: float = conf.FOLLOW_POLL_SECONDS
        self.blocks = Blocks(source, self.write_block, poll=poll)
        self.loops: list[Loop] = [self.blocks]
        newest = self.blocks.recorded_block
        if manifests is not None:
            self.loops.append(
                ManifestLoop(
                    manifests, newest, self.write_sync, limits=limits, poll=poll, accept_silence=accept_silence
                )
            )
        if collateral is not None:
            write = self.write_collateral
            self.loops.append(CollateralLoop(collateral, newest, source.evm_addresses, write, poll=poll))

    async def follow(self, stop: asyncio.Event, *, until: int | None = None) -> list[str]:
        """Follow the chain until `stop` is set, or block `until` is recorded. Stand by while another follower leads.

        Return no failed loops: each goes on. Raises OtherChain if the recorded blocks are of another chain, subnet or
        validator.
        """
        is_waiting = False
        while not stop.is_set():
            lead = await self._try_to_lead(stop)
            if lead is None:
                if not is_waiting and not stop.is_set():
                    self.tell("standby")
                is_waiting = True
                await pause(stop, STANDBY)
                continue
            self.tell("lead")
            try:
                async with asyncio.TaskGroup() as group:
                    watching = self._beat(lead), self._watch(stop, until), self._refresh()
                    watchers = [group.create_task(each) for each in watching]
                    await run(self.loops, stop)
                    for watcher in watchers:
                        watcher.cancel()
            except* LeadLost:
                logger.warning("%s", LeadLost())
            finally:
                await in_database_thread(lead.release)()
        return []

    async def once(self) -> list[str]:
        """Record all that is due now. Return the names of the loops that failed. Raises AlreadyLed and OtherChain."""
        lead = await self._identify()
        if not await in_database_thread(lead.take)():
            raise AlreadyLed
        beat = asyncio.create_task(self._beat(lead))
        try:
            return [loop.name for loop in self.loops if not await self._finish(loop)]
        finally:
            beat.cancel()
            await in_database_thread(lead.release)()

    async def preview(self) -> list[str]:
        """Show what would be recorded of the newest finalized block. Record nothing. Return the loops that failed.

        Raises OtherChain.
        """
        failed: list[str] = []
        try:
            await self._identify()
            head = await self.blocks.look()
            block = await self.blocks.calls.make("block", self.source.block(head.number))
        except OtherChain:
            raise
        except SOURCE_FAILURES as error:
            logger.warning("blocks: %s", error)
            return [loop.name for loop in self.loops]
        self.tell("block", **facts_of_block(block, self.hotkey))
        for loop in self.loops:
            try:
                if isinstance(loop, ManifestLoop):
                    sync = await loop.sync(block)
                    self.tell("manifests", **facts_of_sync(sync), silent=loop.detail["why"])
                elif isinstance(loop, CollateralLoop):
                    self.tell("collateral", **facts_of_collateral(await loop.read(block)))
            except SOURCE_FAILURES as error:
                logger.warning("%s: %s", loop.name, error)
                failed.append(loop.name)
        return failed

    async def _finish(self, loop: Loop) -> bool:
        """Make the due steps of a loop. Return whether all succeeded."""
        while True:
            wait, error = await attempt(loop)
            if error or loop is not self.blocks or self.blocks.is_current:
                return not error
            await asyncio.sleep(wait)

    async def close(self) -> None:
        """Close all connections, in at most CLOSING seconds."""
        closing = asyncio.gather(*(loop.close() for loop in {self.blocks, *self.loops}), return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSING):
                await closing

    async def _identify(self) -> Lead:
        """Return the lead for this chain, subnet and validator."""
        if self.lead is None:
            genesis = await self.blocks.calls.make("genesis", self.source.genesis())
            self.lead = await in_database_thread(Lead)(
                genesis=genesis, netuid=conf.NETUID, hotkey=self.hotkey, source=self.source.name
            )
        await in_database_thread(self.lead.refuse_other_chain)()  # before it stands by, not only when it takes over
        return self.lead

    async def _try_to_lead(self, stop: asyncio.Event) -> Lead | None:
        """Take the lead, or return None if another follower has it. Repeat if the chain or the database fails."""
        wait = FIRST_WAIT
        while not stop.is_set():
            try:
                lead = await self._identify()
                if not await in_database_thread(lead.take)():
                    return None
                await in_database_thread(self._take_over)()
                return lead
            except (*SOURCE_FAILURES, db.Error, LockTimeout) as error:
                if isinstance(error, OtherChain):
                    raise
                logger.warning("The follower can't start yet: %s", error)
            await pause(stop, wait)
            wait = min(2 * wait, LONGEST_WAIT)
        return None

    async def _beat(self, lead: Lead) -> None:
        """Store heartbeats. Raises LeadLost if another follower leads."""
        while True:
            with suppress(db.Error):  # the next heartbeat may succeed; the lock decides who leads
                await in_database_thread(lead.keep)(self.blocks.head, self.source.name)
            await asyncio.sleep(HEARTBEAT if self.blocks.head else self.blocks.poll)

    async def _watch(self, stop: asyncio.Event, until: int | None) -> None:
        """Set `stop` once block `until` is recorded."""
        while until is not None and not stop.is_set():
            with suppress(db.Error):  # the loops report that the database fails
                if await in_database_thread(Block.objects.filter(pk=until).exists)():
                    stop.set()
            await asyncio.sleep(self.blocks.poll)

    async def _refresh(self) -> None:
        """Read the newest recorded block from time to time, if another program records the blocks."""
        while self.blocks not in self.loops:
            try:
                await self.blocks.recorded_block()
            except (*SOURCE_FAILURES, db.Error) as error:
                logger.warning("blocks: %s", error)
            await asyncio.sleep(REFRESH)

    def _take_over(self) -> None:
        """Continue from the reports of the process that led before. Delete those of loops that do not run any more."""
        self.blocks.restore(reported(self.blocks.name))
        forget_other_reports([loop.name for loop in self.loops])

    def write_block(self, block: ChainBlock) -> None:
        """Record a block. This and the next two raise LeadLost without the lead."""
        record(self._leading, block)
        missing = [number for number in self.blocks.gaps if number != block.number]
        self.tell("block", **facts_of_block(block, self.hotkey), missing=len(missing))

    def write_sync(self, sync: Sync) -> None:
        """Record a manifest sync."""
        with self._leading.writing():
            chain.record_manifests(block=sync.block, axons=sync.axons, executors=sync.executors)
        self.tell("manifests", **facts_of_sync(sync))

    def write_collateral(self, reading: Reading) -> None:
        """Record a reading of the collateral."""
        with self._leading.writing():
            chain.record_collaterals(reading.wei)
        self.tell("collateral", **facts_of_collateral(reading))

    @property
    def _leading(self) -> Lead:
        if self.lead is None:
            raise LeadLost
        return self.lead


def facts_of_block(block: ChainBlock, hotkey: str) -> dict[str, Any]:
    """Return the facts of a block, for display."""
    return {
        "number": block.number,
        "hash": block.hash,
        "timestamp": block.timestamp.isoformat(),
        "stake_share": stake_share(block.neurons, hotkey),
        "neurons": len(block.neurons),
    }


def facts_of_sync(sync: Sync) -> dict[str, Any]:
    """Return the facts of a manifest sync, for display."""
    executors = sum(sum(counts.values()) for counts in sync.executors.values())
    return {"block": sync.block, "asked": len(sync.axons), "answered": len(sync.executors), "executors": executors}


def facts_of_collateral(reading: Reading) -> dict[str, Any]:
    """Return the facts of a reading of the collateral, for display."""
    return {"block": reading.block, "miners": len(reading.wei), "with_collateral": sum(map(bool, reading.wei.values()))}
