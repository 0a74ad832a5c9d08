"""What a worker does that follows the chain: the loops of `follow_chain`, in this process, as the settings say."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Coroutine
from functools import cache
from threading import Event, Thread
from typing import Any, TypeVar

from allowance.follow.following import Following
from routing.upkeep.following import following

T = TypeVar("T")

READINGS = ("blocks", "manifests", "collateral")
WARM = 3
"""The number of blocks that are recorded before the measurement."""


class Times:
    """The function `tell` of a follower. It notes when the follower leads, and the CPU and wall time of each block.

    `events` has the number of blocks that were recorded before each event.
    """

    def __init__(self) -> None:
        self.leads = Event()
        self.events: list[tuple[str, int]] = []
        self.cpu: list[float] = []
        self.wall: list[float] = []

    def tell(self, event: str, **_: Any) -> None:
        self.events.append((event, len(self.cpu)))
        if event == "lead":
            self.leads.set()
        if event == "block":
            self.cpu.append(time.process_time())
            self.wall.append(time.perf_counter())


def live_blocks(number: int) -> dict[str, float]:
    """Return the CPU seconds of this process for a live block, the mean of so many, and what was recorded meanwhile.

    The manifests and the collateral that were recorded with them are part of it.
    """
    return _run(_live_blocks(number))


async def _live_blocks(number: int) -> dict[str, float]:
    times, stop = Times(), asyncio.Event()
    follower = following(times.tell, parts=READINGS)
    task = asyncio.create_task(follower.follow(stop))
    last = WARM + number
    while len(times.cpu) <= last:
        assert not task.done()
        await asyncio.sleep(0.1)
    stop.set()
    await task
    await follower.close()
    recorded = Counter(event for event, blocks in times.events if WARM < blocks <= last)
    return {
        "seconds": (times.cpu[last] - times.cpu[WARM]) / number,
        **{name: recorded[name] for name in READINGS[1:]},
    }


def sync() -> float:
    """Return the seconds of one manifest sync, from the question if it is due to the commit."""
    return _run(_sync())


async def _sync() -> float:
    follower = following(Times().tell, parts=["blocks", "manifests"])
    manifests = follower.loops.pop()
    assert await follower.once() == []
    follower.loops = [manifests]
    began = time.perf_counter()
    assert await follower.once() == []
    took = time.perf_counter() - began
    await follower.close()
    return took


def catch_up() -> float:
    """Return the seconds for each block of those that are missing, the mean of all after the first one."""
    return _run(_catch_up())


async def _catch_up() -> float:
    times = Times()
    follower = following(times.tell, parts=["blocks"])
    assert await follower.once() == []
    await follower.close()
    _, *missing = times.wall  # the first block recorded is the newest of the chain, and the first missing one follows
    return (missing[-1] - missing[0]) / (len(missing) - 1)


stops: list[tuple[asyncio.Event, asyncio.Task[Any]]] = []
"""What ends the following that goes on, and its task."""


def follow() -> None:
    """Follow the chain with all its parts, beside whatever else this process does, until it is told to stop."""
    times, _ = _follower()
    times.leads.clear()
    _run(_follow())
    times.leads.wait()


async def _follow() -> None:
    stop = asyncio.Event()
    stops.append((stop, asyncio.create_task(_follower()[1].follow(stop))))


def stop_following() -> dict[str, int]:
    """End what `follow` has begun. Its connections stay. Return how much it has recorded of each kind so far."""
    _run(_stop_following())
    times, follower = _follower()
    recorded = Counter(event for event, _ in times.events)
    (taken,) = (loop.detail["taken"] for loop in follower.loops if loop.name == "receipts")
    return {**{name: recorded[name] for name in ("block", *READINGS[1:])}, "receipts": taken}


async def _stop_following() -> None:
    stop, task = stops.pop()
    stop.set()
    await task


@cache
def _follower() -> tuple[Times, Following]:
    times = Times()
    return times, following(times.tell, parts=[*READINGS, "receipts"])


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """Return an event loop that runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, daemon=True).start()
    return loop


def _run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(work, _loop()).result()
