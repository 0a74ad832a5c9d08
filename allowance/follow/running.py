"""Run the loops of the follower side by side, until they are stopped. No loop stops another."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

from allowance.follow.lead import LeadLost
from allowance.follow.reports import report_failure, report_good
from allowance.plumbing.calls import Calls
from allowance.plumbing.threads import in_database_thread

logger = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds. The wait after a failure doubles from the first to the longest, unless the error names its own wait."""

GRACE = 3.0
"""Seconds that a step has to end when the follower is stopped."""


class Loop(Protocol):
    """A part of the follower that repeats a step. `adapter` is the name of its source, for people."""

    name: str
    adapter: str
    calls: Calls

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
        await asyncio.wait(tasks, timeout=GRACE)
        for task in tasks:
            task.cancel()


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Sleep, but not longer than until `stop` is set."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


async def _repeat(loop: Loop, stop: asyncio.Event) -> None:
    failures = 0
    while not stop.is_set():
        wait, error = await attempt(loop)
        failures = failures + 1 if error else 0
        if error and not wait:
            wait = min(FIRST_WAIT * 2 ** (failures - 1), LONGEST_WAIT)
        await pause(stop, wait)


async def attempt(loop: Loop) -> tuple[float, str]:
    """Make one step and report it, if it called the source. Return the wait in seconds, and the error or no text.

    Every error but LeadLost is reported and logged, because the other loops must go on.
    """
    before = loop.calls.number
    try:
        wait = await loop.step()
        if loop.calls.number > before:
            await in_database_thread(report_good)(loop.name, loop.adapter, detail_of(loop))
    except LeadLost:
        raise
    except Exception as error:
        return await _report(loop, error), str(error) or type(error).__name__
    return wait, ""


async def _report(loop: Loop, error: Exception) -> float:
    """Report and log a failure. Return the wait that the error names, or 0."""
    text = str(error) or type(error).__name__
    is_known = isinstance(error, OSError | TimeoutError) or hasattr(error, "wait")
    logger.warning("%s: %s", loop.name, text, exc_info=None if is_known else error)
    try:
        await in_database_thread(report_failure)(loop.name, loop.adapter, text, detail_of(loop))
    except Exception:  # the database may be what failed
        logger.exception("%s: the failure could not be stored", loop.name)
    wait: float = getattr(error, "wait", 0.0)
    return wait


def detail_of(loop: Loop) -> dict[str, Any]:
    """Return what is stored about a loop: its own detail, and the counts of its calls."""
    return {**loop.detail, "calls": loop.calls.counted}
