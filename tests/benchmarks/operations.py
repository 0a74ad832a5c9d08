"""What a worker does when it is told: picks, floors and whatever else is measured, timed where it happens."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
import random
import resource
import sys
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

from django.conf import settings
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from allowance import allowance
from allowance.locks import lock_timeout
from allowance.models import Account, Block, Miner, Reservation, ReservationState
from allowance.types import AllowanceException
from receipts import receipts
from receipts.schemas import JobAccepted, JobFinished, JobStarted
from receipts.transfer.intake import Intake
from receipts.transfer.loop import BATCH
from routing import routing, service
from routing.decision.book import DryBook, LiveBook
from routing.decision.model import Gate
from routing.decision.pipeline import decide
from routing.log.records import load
from routing.models import DecisionRecord
from routing.requests import V2JobRequest
from routing.types import JobRoute, JobRoutingException, MinerIncidentType, Outcome
from tests.benchmarks.seed import CLASSES, migrate, seed
from tests.factories import job_request
from tests.receipts import MINER, VALIDATOR, started

picked: list[int] = []
"""The reservations to be undone before the next measurement."""

UNDONE_AT = 50
"""The number of reservations at which `time_for` undoes them, so that no executors run out."""

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


def run_last() -> None:
    """Record the three receipts of the last job that was picked, which has ended by then."""
    if not picked:
        return
    reservation = Reservation.objects.select_related("account").get(pk=picked[-1])
    now, job = timezone.now(), {"job_uuid": reservation.job_uuid, "miner_hotkey": reservation.account.miner_id}
    known = {**job, "validator_hotkey": "validator", "timestamp": now}
    started = JobStarted(**known, executor_class=CLASSES[0], is_organic=True, ttl=60)
    accepted = JobAccepted(**known, time_accepted=now, ttl=60)
    finished = JobFinished(**known, time_started=now, time_took_us=1, score_str="", block_numbers=[])
    receipts().record_many([started, accepted, finished])


def report_half() -> None:
    """Report an incident of every other miner."""
    for hotkey in _registered()[::2]:
        routing().report_incident(MinerIncidentType.MINER_JOB_FAILED, hotkey, str(uuid4()), CLASSES[0])


def keep_all_candidates() -> None:
    """Keep the candidates of all routes from now on."""
    settings.ROUTING_DECISIONS_SAMPLE = 1


def steps_down() -> int:
    """Return how many routes went to a lower score than that of a locked candidate, before half the patience."""
    records = DecisionRecord.objects.filter(
        outcome=Outcome.ROUTED, counts__lock__gt=0, waited_us__lt=lock_timeout() * 1e6 / 2, candidates__isnull=False
    )
    return sum(
        any(c.verdict.gate is Gate.LOCK and c.score > (record.score or 0) for c in decision.candidates)
        for record in records
        if (decision := load(record))
    )


def resident() -> float:
    """Return the most memory (MB) that this process ever had, after a pick in each class."""
    for executor_class in CLASSES:
        routing().pick(job_request(30, executor_class=executor_class))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 10**6


def block() -> None:
    """Take in the next block, as a follower does."""
    newest = _newest()
    newest.number, newest.timestamp = newest.number + 1, newest.timestamp + dt.timedelta(seconds=1)
    allowance().record_block(number=newest.number, timestamp=newest.timestamp, stake_share=0.12, hotkeys=_registered())


def take_in(number: int) -> float:
    """Return the seconds that it takes to verify and store so many receipts of a page, once they are signed."""
    lines = [json.dumps(started(timezone.now())).encode() for _ in range(number)]
    intake = Intake(own="", validators=lambda: {VALIDATOR.ss58_address}, routed=lambda _: ())
    began = time.perf_counter()
    batches = (lines[i : i + BATCH] for i in range(0, number, BATCH))
    assert sum(intake.take(MINER.ss58_address, batch).taken for batch in batches) == number
    return time.perf_counter() - began


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


ACTS: dict[str, Callable[..., str | None]] = {
    act.__name__: act for act in (pick, floor, block, dry_run, short_job, run_last)
}


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
    return mock.patch.object(service, "LiveBook", lambda claim, _record, end_turn: LiveBook(claim, None, end_turn))


WITHOUT: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "": nullcontext,
    "logging": _silence,
    "metrics": _uncounted,
    "a record": _unrecorded,
}
"""What a measurement can do without, to see what it costs."""


def time_each(act: str, count: int, without: str = "", before: str = "", **how: Any) -> list[float]:
    """Return the seconds that each of `count` acts takes, without the act `before` it."""
    seconds = []
    with WITHOUT[without]():
        for _ in range(count):
            if before:
                ACTS[before]()
            began = time.perf_counter()
            ACTS[act](**how)
            seconds.append(time.perf_counter() - began)
    return seconds


def time_for(act: str, seconds: float) -> list[float]:
    """Return the seconds that each act takes, until so many seconds are over. Undo them from time to time."""
    found: list[float] = []
    began = time.perf_counter()
    while (before := time.perf_counter()) < began + seconds:
        ACTS[act]()
        found.append(time.perf_counter() - before)
        if len(picked) >= UNDONE_AT:
            undo()
    undo()
    return found


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
    for operation in (
        *(migrate, seed, time_each, time_for, repeat, threads, coroutines, statements, undo),
        *(report_half, keep_all_candidates, steps_down, resident, take_in),
    )
}
"""What a worker of the benchmark does. What takes long says how far it has come: `{"done": …, "of": …}`."""
