"""The loop that records finalized blocks: the live ones in order, then the gaps, the newest first."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from allowance import chain, clock
from allowance.follow.lead import Lead
from allowance.follow.sources import (
    SOURCE_FAILURES,
    Behind,
    BlockUnreadable,
    ChainBlock,
    ChainSource,
    Head,
    Neuron,
    OtherHistory,
    SourceBusy,
    SourceError,
    StateDiscarded,
)
from allowance.models import Block
from allowance.plumbing.calls import Calls
from allowance.plumbing.threads import in_database_thread
from allowance.types import BLOCK_EXPIRY, BadInputError

logger = logging.getLogger(__name__)

POLL = 3.0
"""Seconds between two looks for a new finalized block."""

STALL = 120.0
"""Seconds without a new finalized block after which the connection is made anew."""

AT_ONCE = 25
"""The number of blocks that are recorded in order. If more are missing, the newest is recorded first."""

WINDOW = BLOCK_EXPIRY + 300
"""The number of blocks before the newest in which gaps are filled. Jobs that run can use no older block."""

GAP_PAUSE = 10.0
"""The minimum time (s) until a missing block is read again after a failure of the source."""

RETRY = 60.0
"""Seconds until a block that could not be decoded is read again."""

SHOWN = 5
"""The number of unreadable blocks that are reported."""


class Stalled(SourceError):
    """The source has shown no new finalized block for too long. The follower has made a new connection."""

    wait = POLL

    def __init__(self, source: str, number: int, seconds: float) -> None:
        self.source, self.number, self.seconds = source, number, seconds
        super().__init__(
            f"{source} has shown no finalized block after {number} for {seconds:.0f} s. The follower connects anew. "
            "Check the node, and that it has peers."
        )


def stake_share(neurons: Iterable[Neuron], hotkey: str) -> float:
    """Return our share of the stake, 0 to 1: that of `hotkey` among the neurons with a validator permit.

    This is ComputeHorde's rule. The share is 0 if `hotkey` has no permit. Validators that compute other shares reject
    each other's spending, so this function is the only place that computes it.
    """
    stakes = {neuron.hotkey: neuron.stake for neuron in neurons if neuron.permit}
    total = sum(stakes.values())
    return stakes.get(hotkey, 0) / total if total else 0.0


def record(lead: Lead, block: ChainBlock) -> None:
    """Record a finalized block.

    Raises OtherHistory if its hash, its parent's or its successor's is recorded with another value.
    """
    with lead.writing():
        check_history(block)
        chain.record_block(
            number=block.number,
            timestamp=block.timestamp,
            stake_share=stake_share(block.neurons, lead.hotkey),
            hotkeys=[neuron.hotkey for neuron in block.neurons],
            hashes=(block.hash, block.parent),
        )


def check_history(block: ChainBlock) -> None:
    """Compare the hashes of a block with those that are recorded. Raises OtherHistory if one differs."""
    near = Block.objects.filter(number__range=(block.number - 1, block.number + 1))
    hashes = {number: pair for number, *pair in near.values_list("number", "hash", "parent_hash")}
    recorded = {
        block.number - 1: (hashes.get(block.number - 1, ["", ""])[0], block.parent),
        block.number: (hashes.get(block.number, ["", ""])[0], block.hash),
        block.number + 1: (hashes.get(block.number + 1, ["", ""])[1], block.hash),
    }
    for number, (known, found) in recorded.items():
        if known and found and known != found:
            raise OtherHistory(number, known, found)


def missing(head: int) -> list[int]:
    """Return the numbers of the blocks before `head` that are not recorded, the newest first, within WINDOW."""
    first = max(0, head - WINDOW)
    known = set(Block.objects.filter(number__gte=first, number__lt=head).values_list("number", flat=True))
    return [number for number in range(head - 1, first - 1, -1) if number not in known]


def runs(numbers: Sequence[int]) -> list[list[int]]:
    """Return descending numbers as ascending ranges [first, last]."""
    ascending = list(reversed(numbers))
    edges = [i for i, (a, b) in enumerate(pairwise(ascending), 1) if b != a + 1]
    parts = pairwise([0, *edges, len(ascending)])
    return [[ascending[start], ascending[stop - 1]] for start, stop in parts if stop > start]


class Blocks:
    """The loop of the blocks. `write` records a block; it runs in a thread of the database."""

    name = "blocks"

    def __init__(
        self,
        source: ChainSource,
        write: Callable[[ChainBlock], None],
        *,
        poll: float = POLL,
        stall: float = STALL,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source, self.write = source, write
        self.poll, self.stall, self.monotonic = poll, stall, monotonic
        self.calls = Calls(source.deadline)
        self.head: Head | None = None
        self.moved_at = self.worked_at = monotonic()
        """When the newest finalized block was first seen, and when all blocks up to it were last recorded."""
        self.newest: ChainBlock | None = None
        self.gaps: list[int] = []
        self.gap_error = ""
        """Why the last gap could not be filled, as far as that is no property of the block."""
        self.discarded = -1
        """The newest block whose state the node has discarded. It has no older states either."""
        self.unreadable: dict[int, BlockUnreadable] = {}
        self.retry_at: dict[int, float] = {}
        self.gaps_wait_until = 0.0
        self.permits: dict[str, int] = {}
        """The newest block at which each validator had a permit, by hotkey, of the last BLOCK_EXPIRY blocks."""
        self.recorded = 0
        self.lag = 0.0
        self.is_current = False
        """Whether the last step found nothing more to record."""

    @property
    def adapter(self) -> str:
        """The name of the source, which changes if it goes on to another node."""
        return self.source.name

    @property
    def detail(self) -> dict[str, Any]:
        """The newest recorded block, how far it is behind the chain, and the blocks that are missing."""
        newest = self.newest.number if self.newest else None
        return {
            "newest": newest,
            "lag_blocks": self.head.number - newest if self.head and newest is not None else None,
            "lag_seconds": self.lag,
            "gaps": runs(self.gaps),
            "missing": len(self.gaps),
            "gap_error": self.gap_error,
            "discarded": sum(number <= self.discarded for number in self.gaps),
            "unreadable": [[e.number, e.runtime, e.reason] for e in list(self.unreadable.values())[:SHOWN]],
            "recorded": self.recorded,
            "permits": self.permits,
        }

    async def step(self) -> float:
        """Record the live blocks in order, then one missing block. Return the seconds until the next step.

        A live block that can't be read for now ends the step: the next step begins with it.
        """
        begun = self.monotonic()
        head = await self.look()
        await self._record_live(head.number)
        self.gaps = await in_database_thread(missing)(head.number)
        oldest = head.number - WINDOW
        self.unreadable = {number: error for number, error in self.unreadable.items() if number >= oldest}
        self.retry_at = {number: at for number, at in self.retry_at.items() if number >= oldest}
        gap = next(filter(self._is_due, self.gaps), None)
        self.is_current = gap is None
        if gap is None or self.gaps_wait_until > self.monotonic():
            return self.poll
        await self._fill(gap)
        return max(0.0, begun + 1 / self.source.pace - self.monotonic())

    async def look(self) -> Head:
        """Return the newest finalized block. Raises Stalled if there is no new one for too long.

        If the source fails, the next call goes to another connection, and to the next node if there are several. A
        source that refuses calls for now is asked again, until it has given no new block for too long.
        """
        try:
            head = await self.calls.make("latest", self.source.latest())
        except SOURCE_FAILURES as error:
            if not isinstance(error, SourceBusy) or self._is_stalled():
                await self.renew()
            raise
        if self.head is None or head.number > self.head.number:
            self.head, self.moved_at = head, self.monotonic()
        elif self._is_stalled():
            seconds = self.monotonic() - self.moved_at
            self.moved_at = self.monotonic()
            await self.renew()
            raise Stalled(self.source.name, self.head.number, seconds)
        return self.head

    async def renew(self) -> None:
        """Make a new connection, because the old one may hang."""
        await self.calls.make("renew", self.source.renew())
        self.discarded = -1  # another endpoint may keep more states

    async def take(self, number: int) -> None:
        """Read a block and record it. A block that can't be decoded stays missing, and is read again after RETRY s."""
        try:
            block = await self.calls.make("block", self.source.block(number))
        except BlockUnreadable as error:
            if number not in self.unreadable:
                logger.warning("%s", error)
            self.unreadable[number], self.retry_at[number] = error, self.monotonic() + RETRY
            return
        await in_database_thread(self.write)(block)
        self.unreadable.pop(number, None)
        self.retry_at.pop(number, None)
        self.recorded += 1
        self._note(block)
        if block is self.newest:
            self.lag = await in_database_thread(_age)(block)

    async def _record_live(self, head: int) -> None:
        """Record the blocks up to the `head`. If they can't be read for too long, connect anew and raise the error."""
        try:
            for number in await self._live(head):
                if self._is_due(number):
                    await self.take(number)
        except SOURCE_FAILURES:
            if self.monotonic() - self.worked_at > self.stall:
                self.worked_at = self.monotonic()
                await self.renew()
            raise
        self.worked_at = self.monotonic()

    async def _fill(self, number: int) -> None:
        """Record a missing block. A failure delays the next missing blocks, and no live block.

        Raises OtherHistory, because then no block of the source is to be trusted.
        """
        try:
            await self.take(number)
        except OtherHistory:
            raise
        except StateDiscarded:
            self.discarded = max(self.discarded, number)
        except (*SOURCE_FAILURES, BadInputError) as error:
            wait = max(getattr(error, "wait", 0.0), GAP_PAUSE)
            self.gaps_wait_until, self.gap_error = self.monotonic() + wait, str(error)
            logger.warning("Block %d stays missing for now: %s", number, error)
        else:
            self.gap_error = ""
            if number not in self.unreadable:
                self.gaps.remove(number)

    async def _live(self, head: int) -> list[int]:
        """Return the numbers of the blocks after the newest recorded one; only the `head` if there are too many.

        Raises Behind if the head is far older than the newest recorded block, and OtherHistory if the chain has another
        block with its number: a block after a gap has no recorded parent that would show it.
        """
        recorded = await in_database_thread(_newest_recorded)()
        if recorded is None:
            return [head]
        if recorded.number - head > AT_ONCE:
            await self.renew()
            raise Behind(self.source.name, head, recorded.number)
        if head - recorded.number <= AT_ONCE:
            return list(range(recorded.number + 1, head + 1))
        found = await self.calls.make("hash", self.source.hash(recorded.number))
        if recorded.hash and found and found != recorded.hash:
            raise OtherHistory(recorded.number, recorded.hash, found)
        return [head]

    async def recorded_block(self) -> ChainBlock | None:
        """Return the newest recorded block with its neurons, or None if there is none.

        Raises OtherHistory if the source has another block with this number.
        """
        recorded = await in_database_thread(_newest_recorded)()
        if recorded is None:
            return None
        if (
            self.newest is not None
            and self.newest.number == recorded.number
            and recorded.hash in {"", self.newest.hash}
        ):
            return self.newest
        block = await self.calls.make("block", self.source.block(recorded.number))
        if recorded.hash not in {"", block.hash}:
            raise OtherHistory(block.number, recorded.hash, block.hash)
        self.newest = None  # it may be a block that was forgotten
        self._note(block)
        return block

    def validators(self) -> set[str]:
        """Return the hotkeys of the validators that have a permit, or had one in the last BLOCK_EXPIRY blocks."""
        return set(self.permits)

    def restore(self, detail: Mapping[str, Any]) -> None:
        """Take over the validators that an earlier process has reported."""
        permits = detail.get("permits")
        if isinstance(permits, dict):
            self.permits = {**permits, **self.permits}

    async def close(self) -> None:
        """Close the source."""
        await self.source.close()

    def _note(self, block: ChainBlock) -> None:
        """Remember a block that was read, if it is the newest one, and its validators."""
        if self.newest is None or block.number >= self.newest.number:
            self.newest = block
        found = {neuron.hotkey: block.number for neuron in block.neurons if neuron.permit}
        latest = {hotkey: max(number, found.get(hotkey, 0)) for hotkey, number in {**found, **self.permits}.items()}
        oldest = self.newest.number - BLOCK_EXPIRY
        # A new dict: threads of the database read the old one.
        self.permits = {hotkey: number for hotkey, number in latest.items() if number >= oldest}

    def _is_stalled(self) -> bool:
        return self.monotonic() - self.moved_at > self.stall

    def _is_due(self, number: int) -> bool:
        return number > self.discarded and self.retry_at.get(number, 0.0) <= self.monotonic()


def _newest_recorded() -> Head | None:
    newest = Block.objects.order_by("-number").values_list("number", "hash").first()
    return Head(*newest) if newest else None


def _age(block: ChainBlock) -> float:
    """Return the seconds from a block to the clock of the site."""
    return (clock.now() - block.timestamp).total_seconds()
