"""Run the loops of the follower side by side, until they are stopped. No loop stops another."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

from allowance.follow.lead import LeadLost
from allowance.follow.reports import report_failure, report_good
from allowance.follow.sources import SOURCE_FAILURES
from allowance.plumbing.calls import Calls
from allowance.plumbing.errors import RefusedError
from allowance.plumbing.threads import in_database_thread

logger = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds. The wait after a failure doubles from the first to the longest, unless the error names its own wait."""

LOG_EVERY = 60.0
"""Seconds between two log records of the same failure."""

REPORT_EVERY = 15.0
"""Seconds between two reports of a loop that works. A report can have many kilobytes."""

GRACE = 3.0
"""Seconds that a step has to end when the follower is stopped."""


class Loop(Protocol):
    """A part of the follower that repeats a step."""

    name: str
    calls: Calls

    @property
    def adapter(self) -> str:
        """The name of its source, for people."""

    @property
    def detail(self) -> dict[str, Any]:
        """What other processes are told about the last step, as JSON values."""

    async def step(self) -> float:
        """Read and record what is due. Return the seconds until the next step. Raises an error if a source fails."""

    async def close(self) -> None:
        """Close the connections of the loop."""


async def run(loops: Sequence[Loop], stop: asyncio.Event) -> None:
    """Repeat the steps of all `loops` until `stop` is set. Raises LeadLost if another process has taken the lead.

    A step that runs then has GRACE seconds to end, because a thread that writes can't be cancelled.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_repeat(loop, stop), name=loop.name) for loop in loops]
        await stop.wait()
        if tasks:
            await asyncio.wait(tasks, timeout=GRACE)
        for task in tasks:
            task.cancel()


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Sleep, but not longer than until `stop` is set."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


class FailureLog:
    """The log of the failures of a loop: a new one at once, and one that lasts each LOG_EVERY seconds."""

    def __init__(self, name: str) -> None:
        self.name, self.text, self.logged_at = name, "", 0.0

    def note(self, text: str, error: Exception | None = None) -> None:
        """Log a failure, or that there is none any more if the `text` is empty."""
        now = time.monotonic()
        if text == self.text and (not text or now < self.logged_at + LOG_EVERY):
            return
        self.text, self.logged_at = text, now
        if not text:
            logger.info("%s: the source answers again", self.name)
            return
        is_known = error is None or isinstance(error, (*SOURCE_FAILURES, RefusedError))
        level = getattr(error, "level", logging.WARNING)
        logger.log(level, "%s: %s", self.name, text, exc_info=None if is_known else error)


async def _repeat(loop: Loop, stop: asyncio.Event) -> None:
    failures, reported_at, log = 0, -REPORT_EVERY, FailureLog(loop.name)
    while not stop.is_set():
        is_quiet = not failures and time.monotonic() < reported_at + REPORT_EVERY
        wait, error = await attempt(loop, log, is_quiet=is_quiet)
        reported_at = reported_at if is_quiet else time.monotonic()
        failures = failures + 1 if error else 0
        if error and not wait:
            wait = min(FIRST_WAIT * 2 ** (failures - 1), LONGEST_WAIT)
        await pause(stop, wait)


async def attempt(loop: Loop, log: FailureLog | None = None, *, is_quiet: bool = False) -> tuple[float, str]:
    """Make one step and report it, if the source has answered. Return the wait in seconds, and the error or no text.

    Every error but LeadLost is reported and logged, because the other loops must go on. If `is_quiet`, a step without
    an error is not reported.
    """
    log, before = log or FailureLog(loop.name), loop.calls.good
    try:
        wait = await loop.step()
        if loop.calls.good > before:
            log.note("")
            if not is_quiet:
                await in_database_thread(report_good)(loop.name, loop.adapter, detail_of(loop))
    except LeadLost:
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        return await _report(loop, log, RuntimeError(f"A library cancelled the step: {error!r}")), "cancelled"
    except Exception as error:
        return await _report(loop, log, error), str(error) or type(error).__name__
    return wait, ""


async def _report(loop: Loop, log: FailureLog, error: Exception) -> float:
    """Report and log a failure. Return the wait that the error names, or 0."""
    text = str(error) or type(error).__name__
    log.note(text, error)
    try:
        await in_database_thread(report_failure)(loop.name, loop.adapter, text, detail_of(loop))
    except Exception:  # the database may be what failed
        logger.exception("%s: the failure could not be stored", loop.name)
    wait: float = getattr(error, "wait", 0.0)
    return wait


def detail_of(loop: Loop) -> dict[str, Any]:
    """Return what is stored about a loop: its own detail, and the counts of its calls."""
    return {**loop.detail, "calls": loop.calls.counted}
