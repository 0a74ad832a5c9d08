"""What a process can be told to do. Each call into the apps gives a word: what, when, and what came of it."""

from __future__ import annotations

import datetime as dt
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock
from uuid import UUID

from django.test import override_settings

from allowance import allowance, locks, reservations
from allowance.models import Reservation
from allowance.oversight.audit import check_ledger
from allowance.types import RESERVATION_MARGIN
from receipts import receipts
from receipts.schemas import JobFinished, JobStarted
from routing import routing
from routing.decision import book
from routing.sockets import jobs, statements
from routing.sockets.messages import Finished, Retry, Started
from routing.upkeep import pruning
from routing.upkeep.pruning import KEEP
from tests.factories import job_request
from tests.jobs import ME
from tests.ledgers import CLASS

Word = dict[str, Any]

AXON = {"address": "10.0.0.1", "ip_version": 4, "port": 9000}
VALIDATOR = "validator"


def clock() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def attempt(what: str, call: Callable[[], object], **about: object) -> Word:
    """Make a call and return the word on it: its result, or the name of its error and of what the database said."""
    word: Word = {"what": what, "begun": clock().isoformat(), **about, "result": None, "error": None}
    try:
        word["result"] = call()
    except Exception as error:
        cause = error
        while cause.__cause__ is not None and isinstance(cause.__cause__, Exception):
            cause = cause.__cause__
        word |= {"error": type(error).__name__, "cause": type(cause).__name__, "text": str(error)}
    return {**word, "done": clock().isoformat()}


def pick(seconds: float, executor_class: str = CLASS, life: float | None = None) -> Word:
    """Pick a miner for a new job; with `life` its hold ends so many seconds from now."""
    request = job_request(executor_class=executor_class, execution_time_limit=seconds)
    margin = RESERVATION_MARGIN if life is None else dt.timedelta(seconds=life - seconds)

    def call() -> Word:
        with mock.patch.object(reservations, "RESERVATION_MARGIN", margin):
            route = routing().pick(request)
        return {
            "miner": route.miner.hotkey_ss58,
            "blocks": route.allowance_blocks,
            "reservation": route.allowance_reservation_id,
        }

    return attempt("pick", call, job=request.uuid, executor_class=executor_class, life=life)


def reserve(seconds: float, miner: str, start: int) -> Word:
    """Reserve with a miner, as those do who choose by themselves."""

    def call() -> Word:
        reservation, blocks = allowance().reserve_allowance(
            miner=miner, executor_class=CLASS, allowance_seconds=seconds, job_start_block=start
        )
        return {"miner": miner, "blocks": blocks, "reservation": reservation}

    return attempt("reserve", call)


def restore(reservation: int, miner: str, blocks: list[int]) -> Word:
    """Store a hold as an exported journal has it, as those do who import one."""
    now = clock()
    row = Reservation(pk=reservation, blocks=blocks, created_at=now, expires_at=now + RESERVATION_MARGIN)
    return attempt("restore", lambda: reservations.restore(row, miner=miner, executor_class=CLASS))


def spend(reservation: int) -> Word:
    return attempt("spend", lambda: allowance().spend_allowance(reservation), reservation=reservation)


def undo(reservation: int) -> Word:
    return attempt("undo", lambda: allowance().undo_allowance_reservation(reservation), reservation=reservation)


def start(job: str, miner: str, executor_class: str, ttl: int) -> Word:
    """Record that a job was sent to its miner, now."""
    receipt = JobStarted.model_validate(
        {
            "job_uuid": job,
            "miner_hotkey": miner,
            "validator_hotkey": VALIDATOR,
            "timestamp": clock(),
            "executor_class": executor_class,
            "ttl": ttl,
        }
    )
    return attempt("start", lambda: receipts().record(receipt), job=job)


def finish(job: str, miner: str) -> Word:
    """Record that a job is over, now."""
    now = clock()
    receipt = JobFinished.model_validate(
        {
            "job_uuid": job,
            "miner_hotkey": miner,
            "validator_hotkey": VALIDATOR,
            "timestamp": now,
            "time_started": now,
            "time_took_us": 0,
        }
    )
    return attempt("finish", lambda: receipts().record(receipt), job=job)


def say_of_job(kind: str, job: str, reservation: int) -> Word:
    """Say over a socket that a job was started, or is over."""
    about = {"uuid": UUID(job), "allowance_reservation_id": reservation, "validator_hotkey": VALIDATOR}
    said = Started(**about) if kind == "started" else Finished(**about, time_took_us=0)
    return attempt("say_of_job", lambda: statements.note(said, by=ME), job=job)


def retry(job: str, reservation: int) -> Word:
    """Give up a job's route for another one."""
    said = Retry(uuid=UUID(job), allowance_reservation_id=reservation)

    def call() -> str | None:
        outcome = jobs.retry(said, by=ME)
        return outcome.route.miner.hotkey_ss58 if outcome.route else None

    return attempt("retry", call, job=job)


def block(number: int, timestamp: str, stake_share: float = 0.5, hotkeys: list[str] | None = None) -> Word:
    def call() -> None:
        allowance().record_block(
            number=number,
            timestamp=dt.datetime.fromisoformat(timestamp),
            stake_share=stake_share,
            hotkeys=hotkeys,
        )

    return attempt("block", call, number=number, hotkeys=hotkeys)


def manifests(block: int, executors: dict[str, dict[str, int]]) -> Word:
    """Record the answers of miners, who are all at the same address."""

    def call() -> None:
        allowance().record_manifests(block=block, axons=dict.fromkeys(executors, AXON), executors=executors)

    return attempt("manifests", call, block=block, executors=executors)


def lock(first: str, second: str) -> Word:
    """Lock the accounts of two miners one after the other, which nothing in the ledger does without the chain lock."""

    def call() -> None:
        with locks.ledger_transaction():
            for miner in (first, second):
                locks.lock_account(miner=miner, executor_class=CLASS)

    return attempt("lock", call)


def repair() -> Word:
    return attempt("repair", lambda: [str(difference) for difference in check_ledger(repair=True)])


def prune(batch: int) -> Word:
    """Prune all that is past use, for no days, and say how many rows of each kind went, or what was locked."""

    def call() -> Word:
        with override_settings(**dict.fromkeys(KEEP, 0)):
            kinds = {kind.name: list(kind.prune()) for kind in pruning.kinds(clock(), batch)}
        locked = [done.locked for batches in kinds.values() for done in batches if done.locked]
        return {"rows": {name: sum(done.rows for done in batches) for name, batches in kinds.items()}, "locked": locked}

    return attempt("prune", call)


@contextmanager
def slowly(pause: float) -> Iterator[None]:
    """Let picks take up to `pause` more seconds between what they read of an account and what they write."""
    admit = book.admit

    def admit_slowly(*args: Any) -> object:
        outcome = admit(*args)
        time.sleep(random.uniform(0, pause))
        return outcome

    with mock.patch.object(book, "admit", admit_slowly):
        yield


def picks(times: int, seconds: float, pause: float) -> Iterator[Word]:
    """Pick again and again."""
    with slowly(pause):
        for _ in range(times):
            yield pick(seconds)


def lives(times: int, seconds: float) -> Iterator[Word]:
    """Pick again and again, and spend or release each second route."""
    for i in range(times):
        picked = pick(seconds)
        yield picked
        if picked["result"] and i % 2:
            yield (spend if i % 4 == 1 else undo)(picked["result"]["reservation"])


OPERATIONS: dict[str, Callable[..., Word | Iterator[Word]]] = {
    call.__name__: call
    for call in (
        *(pick, reserve, restore, spend, undo, say_of_job, retry),
        *(block, manifests, lock, repair, prune, picks, lives),
    )
}
