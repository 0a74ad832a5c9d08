"""Read the pages of receipts of all miners again and again: the loop of the chain follower for receipts."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from allowance import clock
from allowance.plumbing.calls import Calls
from allowance.plumbing.errors import RefusedError
from allowance.plumbing.threads import in_database_thread
from receipts.transfer.intake import Intake, Refused
from receipts.transfer.pages import PAGE_SECONDS, BadPage, MinerAddress, ReceiptSource

logger = logging.getLogger(__name__)

OFTEN, SELDOM = 5.0, 60.0
"""Seconds between two visits to a miner that answers, and the longest time between two to one that does not."""

AT_ONCE, OLDER_AT_ONCE = 32, 8
"""The number of miners that are asked at once for their newest pages, and for older ones."""

CATCH_UP = 60
"""The number of pages that are read after a start: those of 5 h."""

OLDER_PER_STEP = 4
"""The maximum number of answers with older pages of a miner in a step, so that catching up takes little of a core."""

SLOW = 3.0
"""A visit that takes longer (s) delays the next one, as if the miner had not answered."""

FIRST_STEP = 30.0
"""The maximum time (s) of the first step."""

MOST_LINES, MOST_BYTES, MOST_FORGED = 20_000, 16 * 2**20, 1_000
"""The maximum number of lines and bytes of a page in all its answers, and of lines in it that deserve no trust.

The lines after them are not taken in: a miner that writes nonsense would use a core for itself.
"""

BATCH = 500
"""The maximum number of lines that are taken in at once. Other miners take turns in between."""


@dataclass(slots=True)
class Progress:
    """What was read of a page: the offset after the last line, and the number of lines and of forged ones."""

    offset: int = 0
    lines: int = 0
    forged: int = 0

    @property
    def is_spent(self) -> bool:
        return self.lines > MOST_LINES or self.offset > MOST_BYTES or self.forged > MOST_FORGED


@dataclass(slots=True)
class Shelf:
    """The pages of a miner: those that are read in part, and the older ones that must still be read to their ends.

    `newest` is the newest page when it was read last. `due` is when it is asked next, in the loop's seconds.
    """

    miner: MinerAddress
    begun: dict[int, Progress] = field(default_factory=dict)
    older: list[int] = field(default_factory=list)
    newest: int = 0
    due: float = 0.0
    wait: float = OFTEN
    taken: int = 0
    refused: int = 0
    good_at: dt.datetime | None = None
    silent_since: dt.datetime | None = None

    def turn_to(self, page: int) -> None:
        """Make `page` the newest one. The pages that no longer grow become older ones, which are read once more."""
        oldest = page - CATCH_UP + 1
        if page != self.newest:
            self.older.extend(range(max(self.newest - 1, oldest), page - 1))
            self.newest = page
        self.older = [one for one in self.older if one >= oldest]
        kept = {*self.live, *self.older}
        self.begun = {one: progress for one, progress in self.begun.items() if one in kept}

    @property
    def live(self) -> tuple[int, int]:
        """The pages that grow."""
        return self.newest, self.newest - 1

    def read_to_the_end(self, page: int) -> None:
        """Forget a page, if it is an older one."""
        if page in self.older:
            self.older.remove(page)
            self.begun.pop(page, None)

    def answered(self, at: dt.datetime) -> None:
        self.wait, self.good_at, self.silent_since = OFTEN, at, None

    def failed(self, at: dt.datetime) -> None:
        self.wait = min(self.wait * 2, SELDOM)
        self.silent_since = self.silent_since or at


class ReceiptsLoop:
    """The loop for receipts. A step asks each miner whose turn it is for what is new on its two newest pages.

    `miners` returns the miners with executors, and where they listen. It uses the database, so it runs in a thread.
    `tell` is called with each batch of new receipts.
    What was read is remembered in memory. After a start the pages of 5 h are read again, the newest first. A miner that
    does not answer keeps no other waiting: the step ends without it, and its visit goes on.
    """

    name = "receipts"

    def __init__(
        self,
        source: ReceiptSource,
        intake: Intake,
        miners: Callable[[], Iterable[MinerAddress]],
        tell: Callable[..., None] = lambda *_, **__: None,
    ) -> None:
        self.adapter = source.name
        self.calls = Calls()
        self._source, self._intake, self._miners, self._tell = source, intake, miners, tell
        self._shelves: dict[str, Shelf] = {}
        self._visits: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._slots, self._older_slots = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore(OLDER_AT_ONCE)
        self._turn = asyncio.Lock()
        self._taken = 0
        self._refused: Counter[Refused] = Counter()
        self._is_first_step = True
        self._now = dt.datetime.min.replace(tzinfo=dt.UTC)

    @property
    def detail(self) -> dict[str, Any]:
        return {
            "taken": self._taken,
            "refused": {reason.value: count for reason, count in sorted(self._refused.items())},
            "miners": {
                hotkey: {
                    "taken": shelf.taken,
                    "refused": shelf.refused,
                    "good_at": shelf.good_at and shelf.good_at.isoformat(),
                    "silent_since": shelf.silent_since and shelf.silent_since.isoformat(),
                }
                for hotkey, shelf in sorted(self._shelves.items())
            },
        }

    async def step(self) -> float:
        """Visit the miners whose turn it is. Return the seconds until the next step.

        The first step waits for all of them, so that one step is a whole reading. Raises ValidatorsUnknown and
        the errors of the database.
        """
        begun = asyncio.get_running_loop().time()
        await self._turn_pages()
        for shelf in self._shelves.values():
            if shelf.due <= begun:
                self._visit(shelf, "newest", self._read_newest(shelf))
            if shelf.older and shelf.good_at and not shelf.silent_since:
                self._visit(shelf, "older", self._read_older(shelf))
        await self._wait(FIRST_STEP if self._is_first_step else OFTEN)
        self._is_first_step = False
        return max(0.0, begun + OFTEN - asyncio.get_running_loop().time())

    async def close(self) -> None:
        for visit in self._visits.values():
            visit.cancel()
        await asyncio.gather(*self._visits.values(), return_exceptions=True)
        self._visits.clear()
        await self._source.close()

    async def _turn_pages(self) -> None:
        """Read the time and the miners. Forget the miners that are gone; begin anew with one that has moved."""
        self._now, miners = await in_database_thread(self._look)()
        shelves = {}
        for miner in miners:
            shelf = self._shelves.get(miner.hotkey)
            shelves[miner.hotkey] = shelf if shelf and shelf.miner == miner else Shelf(miner)
        self._shelves = shelves
        for shelf in shelves.values():
            shelf.turn_to(int(self._now.timestamp()) // PAGE_SECONDS)

    def _look(self) -> tuple[dt.datetime, list[MinerAddress]]:
        """Return the time and the miners. Raises ValidatorsUnknown."""
        self._intake.require_validators()
        return clock.now(), list(self._miners())

    def _visit(self, shelf: Shelf, what: str, reading: Coroutine[Any, Any, None]) -> None:
        """Begin a visit, unless the same one is still going on."""
        key = (shelf.miner.hotkey, what)
        if key in self._visits:
            reading.close()
        else:
            self._visits[key] = asyncio.create_task(reading, name=f"receipts of {shelf.miner.hotkey}, {what}")

    async def _wait(self, seconds: float) -> None:
        """Wait until all visits have ended, at most some seconds. Raises the first error of those that have ended."""
        if not self._visits:
            return
        await asyncio.wait(self._visits.values(), timeout=seconds)
        ended = {key: visit for key, visit in self._visits.items() if visit.done()}
        for key in ended:
            del self._visits[key]
        errors = [error for visit in ended.values() if (error := visit.exception())]
        if errors:
            raise errors[0]

    async def _read_newest(self, shelf: Shelf) -> None:
        before = shelf.wait
        async with self._slots:
            begun = asyncio.get_running_loop().time()
            for page in shelf.live:
                if await self._read(shelf, page) is None:
                    break
            is_slow = asyncio.get_running_loop().time() > begun + SLOW
        if is_slow:  # else many slow miners would keep the slots from the others
            shelf.wait = min(before * 2, SELDOM)
        shelf.due = asyncio.get_running_loop().time() + shelf.wait - OFTEN / 2  # the steps are OFTEN seconds apart

    async def _read_older(self, shelf: Shelf) -> None:
        """Read some older pages to their ends, the newest first."""
        async with self._older_slots:
            for _ in range(OLDER_PER_STEP):
                if not shelf.older:
                    return
                page = shelf.older[-1]
                has_more = await self._read(shelf, page)
                if has_more is None:
                    return
                if not has_more:
                    shelf.read_to_the_end(page)

    async def _read(self, shelf: Shelf, page: int) -> bool | None:
        """Take in what is new on a page. Return whether more may follow, or None if there was no answer."""
        progress = shelf.begun.get(page) or Progress()
        if progress.is_spent:
            return False
        try:
            lines, offset = await self.calls.make("pages", self._source.pages(shelf.miner, page, progress.offset))
        except (RefusedError, OSError) as error:
            self._note_failure(shelf, page, error)
            return None
        except Exception as error:  # a miner chooses what it sends: whatever it provokes must not stop the others
            logger.exception("The receipts of %s can't be read.", shelf.miner.hotkey)
            self._note_failure(shelf, page, error)
            return None
        shelf.answered(self._now)
        await self._take(shelf, progress, lines)
        has_more = bool(lines) or offset < progress.offset
        progress.offset = offset
        shelf.begun[page] = progress
        return has_more

    def _note_failure(self, shelf: Shelf, page: int, error: Exception) -> None:
        logger.debug("%s", error)
        shelf.failed(self._now)
        if isinstance(error, BadPage):
            shelf.read_to_the_end(page)  # an older page does not change any more

    async def _take(self, shelf: Shelf, progress: Progress, lines: Sequence[bytes]) -> None:
        """Take in lines in batches, as far as the page's bounds allow."""
        fitting = lines[: max(0, MOST_LINES - progress.lines)]
        taken_in = 0
        while taken_in < len(fitting) and progress.forged <= MOST_FORGED:
            batch = fitting[taken_in : taken_in + BATCH]
            async with self._turn:
                taken, refused = await in_database_thread(self._intake.take)(shelf.miner.hotkey, batch)
            progress.forged += refused.total() - refused[Refused.NO_VALIDATOR]
            self._count(shelf, taken, refused)
            if taken:
                self._tell("receipts", miner=shelf.miner.hotkey, taken=taken, refused=refused.total())
            taken_in += len(batch)
        if taken_in < len(lines):
            self._count(shelf, 0, Counter({Refused.TOO_MANY: len(lines) - taken_in}))
        progress.lines += len(lines)

    def _count(self, shelf: Shelf, taken: int, refused: Counter[Refused]) -> None:
        self._taken += taken
        self._refused += refused
        shelf.taken += taken
        shelf.refused += refused.total()
