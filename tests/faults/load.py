"""A router under load: it picks, spends and undoes without a pause, and says what it told its callers."""

from __future__ import annotations

import asyncio
import random
import select
import sys
import time
from collections.abc import Awaitable, Callable

from django.db import InterfaceError, OperationalError

from allowance import allowance
from allowance.types import ReservationNotFound
from routing import routing
from tests.factories import job_request
from tests.faults.aftermath import Route

SECONDS, SPENT = 6, 0.1
"""Each job takes a block; few are spent, so that there are always some left."""

CALLERS = 2
"""So many are served at once, each on a connection of its own."""

BACKOFF = 0.02
"""Seconds until a caller that got an error tries again, as callers do."""

Say = Callable[[dict[str, object]], None]


def serve_jobs(say: Say) -> int:
    """Serve callers until a line comes in, and return how many jobs were routed. Says each answer that a caller got.

    Only what a database driver raises for a lost connection is caught, and that a reservation is not found, which is
    said: a failover may have lost it. Anything else ends the router, and so the test.
    """
    picks = asyncio.run(_serve(say))
    sys.stdin.readline()
    return picks


async def _serve(say: Say) -> int:
    return sum(await asyncio.gather(*(_call(say) for _ in range(CALLERS))))


async def _call(say: Say) -> int:
    picks = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        began, request = time.time(), job_request(SECONDS)
        try:
            picked = await routing().pick_miner_for_job_request(request)
        except (OperationalError, InterfaceError) as error:
            await _complain(say, error, began=began, job=request.uuid)
            continue
        picks += 1
        route = Route.of(picked)
        say({"told": "pick", "began": began, "route": route})
        spend = random.random() < SPENT
        end = allowance().aspend_allowance if spend else allowance().aundo_allowance_reservation
        await _end(say, "spent" if spend else "released", route.reservation, end)
    return picks


async def _end(say: Say, state: str, reservation: int, end: Callable[[int], Awaitable[None]]) -> None:
    began = time.time()
    try:
        await end(reservation)
    except (OperationalError, InterfaceError) as error:
        await _complain(say, error, began=began, reservation=reservation, perhaps=state)
    except ReservationNotFound:
        say({"told": "lost", "reservation": reservation})
    else:
        say({"told": state, "reservation": reservation})


async def _complain(say: Say, error: Exception, **what: object) -> None:
    say({"told": "error", "text": f"{type(error).__name__}: {error}", **what})
    await asyncio.sleep(BACKOFF)
