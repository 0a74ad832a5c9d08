"""What a worker does when it is told: picks, floors and whatever else is measured, timed where it happens."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from threading import Barrier
from typing import Any
from unittest import mock
from uuid import uuid4

from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from allowance import allowance
from allowance.models import Account, Block, Miner, Reservation, ReservationState
from allowance.types import AllowanceException
from routing import routing, service
from routing.decision.book import DryBook
from routing.decision.pipeline import decide
from routing.log import records
from routing.requests import V2JobRequest
from routing.types import JobRoute, JobRoutingException
from tests.benchmarks.seed import CLASSES, migrate, seed
from tests.factories import job_request

picked: list[int] = []
"""The reservations to be undone before the next measurement."""

book = DryBook()


def pick(seconds: int = 30) -> None:
    _note(routing().pick(job(seconds)))


def floor() -> None:
    """Do what any reservation takes, in Django's way: lock an account, insert a row, update the account."""
    now = timezone.now()
    with transaction.atomic():
        account = Account.objects.select_for_update().get(pk=random.choice(_accounts()))
        Reservation.objects.create(
            account=account,
            job_uuid=uuid4(),
            blocks=[1, 2, 3],
            created_at=now,
            expires_at=now + dt.timedelta(seconds=130),
            state=ReservationState.RELEASED,
            ended_at=now,
        )
        account.save(update_fields=["held"])


def block() -> None:
    """Take in the next block, as a follower does."""
    newest = _newest()
    newest.number, newest.timestamp = newest.number + 1, newest.timestamp + dt.timedelta(seconds=12)
    allowance().record_block(number=newest.number, timestamp=newest.timestamp, stake_share=0.12, hotkeys=_registered())


def dry_run() -> None:
    """Decide one more job, after all those before it."""
    assert decide(job(30), book, now=timezone.now()).route


def short_job() -> str | None:
    """Route a job of 5 s and spend what pays for it. Returns the name of the refusal, if it is refused."""
    try:
        route = routing().pick(job(5))
        allowance().spend_allowance(route.allowance_reservation_id or 0)
    except (AllowanceException, JobRoutingException) as refusal:
        return type(refusal).__name__
    return None


ACTS: dict[str, Callable[..., str | None]] = {act.__name__: act for act in (pick, floor, block, dry_run, short_job)}


@contextmanager
def _silence() -> Iterator[None]:
    logging.disable()
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _uncounted() -> AbstractContextManager[object]:
    return mock.patch.object(service, "_count", return_value=None)


def _unrecorded() -> AbstractContextManager[object]:
    return mock.patch.object(records, "record_route")


WITHOUT: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "": nullcontext,
    "logging": _silence,
    "metrics": _uncounted,
    "a record": _unrecorded,
}
"""What a measurement can do without, to see what it costs."""


def time_each(act: str, count: int, without: str = "", **how: Any) -> list[float]:
    """Return the seconds that each of `count` acts takes."""
    seconds = []
    with WITHOUT[without]():
        for _ in range(count):
            before = time.perf_counter()
            ACTS[act](**how)
            seconds.append(time.perf_counter() - before)
    return seconds


def repeat(act: str, seconds: float) -> dict[str, Any]:
    """Act until so many seconds are over. Returns how long that was, and how often each outcome came."""
    outcomes: Counter[str] = Counter()
    began = time.perf_counter()
    while time.perf_counter() < began + seconds:
        outcomes[ACTS[act]() or "done"] += 1
    return {"outcomes": outcomes, "seconds": time.perf_counter() - began}


def threads(number: int, seconds: float) -> dict[str, Any]:
    """Pick from plain threads for so many seconds."""
    start = Barrier(number)

    def run() -> tuple[float, dict[str, Any]]:
        connection.ensure_connection()  # beforehand: the threads of the other side have theirs
        try:
            start.wait()
            return time.perf_counter(), repeat("pick", seconds)
        finally:
            connection.close()

    with ThreadPoolExecutor(number) as pool:
        runs = [future.result() for future in [pool.submit(run) for _ in range(number)]]
    end = max(began + run["seconds"] for began, run in runs)
    return {
        "outcomes": {"done": sum(run["outcomes"]["done"] for _, run in runs)},
        "seconds": end - min(began for began, _ in runs),
    }


def coroutines(number: int, seconds: float) -> dict[str, Any]:
    """Pick from coroutines for so many seconds. Returns also how late, in seconds, the event loop was meanwhile."""
    return asyncio.run(_coroutines(number, seconds))


async def _coroutines(number: int, seconds: float) -> dict[str, Any]:
    lags: list[float] = []
    began = time.perf_counter()

    async def run() -> int:
        count = 0
        while time.perf_counter() < began + seconds:
            _note(await routing().pick_miner_for_job_request(job(30)))
            count += 1
        return count

    probe = asyncio.create_task(_probe(lags))
    counts = await asyncio.gather(*(run() for _ in range(number)))
    ended = time.perf_counter()
    probe.cancel()
    return {"outcomes": {"done": sum(counts)}, "seconds": ended - began, "lags": lags}


async def _probe(lags: list[float]) -> None:
    while True:
        before = time.perf_counter()
        await asyncio.sleep(0.001)
        lags.append(time.perf_counter() - before - 0.001)


def statements() -> int:
    """Return how many SQL statements a pick makes, once the process has made one."""
    pick()
    with CaptureQueriesContext(connection) as captured:
        pick()
    return len(captured)


def undo() -> None:
    """Release what was picked since the last time."""
    while picked:
        allowance().undo_allowance_reservation(picked.pop())


def job(seconds: int) -> V2JobRequest:
    """Return a new job of the class that is measured."""
    return job_request(seconds, executor_class=CLASSES[0])


def _note(route: JobRoute) -> None:
    assert route.allowance_reservation_id is not None
    picked.append(route.allowance_reservation_id)


@cache
def _accounts() -> list[int]:
    return list(Account.objects.values_list("pk", flat=True))


@cache
def _registered() -> list[str]:
    return list(Miner.objects.values_list("pk", flat=True))


@cache
def _newest() -> Block:
    return Block.objects.latest("number")


OPERATIONS: dict[str, Callable[..., Any]] = {
    operation.__name__: operation
    for operation in (migrate, seed, time_each, repeat, threads, coroutines, statements, undo)
}
