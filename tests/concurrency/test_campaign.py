"""Callers in several processes pick, spend, undo and forget, while the chain goes on; then others judge what they got.

CAMPAIGN_SECONDS and CAMPAIGN_PROCESSES make it a longer one; what was done, and how often, goes to the log.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from tests.concurrency import operations
from tests.concurrency.campaign import CLASSES, EXECUTORS
from tests.concurrency.evidence import deadlocks, gather, said
from tests.concurrency.processes import Crew, Word
from tests.concurrency.verdict import Evidence, judge
from tests.factories import empty_tables
from tests.ledgers import FIRST_BLOCK, fill_ledger
from tests.programs import DEADLINE

SECONDS = float(os.environ.get("CAMPAIGN_SECONDS", "5"))
PROCESSES = int(os.environ.get("CAMPAIGN_PROCESSES", "4"))

BLOCKS = 60
BLOCK_PAUSE = 0.05
LOCK_TIMEOUT = 5.0

logger = logging.getLogger(__name__)


def run_campaign(crew: Crew, *, seconds: float, processes: int, without: str = "", pause: float = 0) -> list[Word]:
    """Let callers and a chain follower do what they do for some seconds; return all that they were told, by time.

    `pause` are the seconds that a pick takes, at most, between reading and writing, beyond what it takes by itself.
    """
    minted = timezone.now() - dt.timedelta(days=30)
    words = []
    for i in range(BLOCKS):
        minted += dt.timedelta(seconds=12)
        hotkeys = sorted(EXECUTORS) if i == 0 else None
        words.append(operations.block(FIRST_BLOCK + i, minted.isoformat(), hotkeys=hotkeys))
    counts = {name: dict.fromkeys(CLASSES, count) for name, count in EXECUTORS.items()}
    words.append(operations.manifests(FIRST_BLOCK, counts))

    follower, *callers = crew.call(1 + processes)
    newest: dict[str, Any] = {"number": FIRST_BLOCK + BLOCKS - 1, "minted": minted.isoformat(), "pause": BLOCK_PAUSE}
    follower.tell("follow", patience=LOCK_TIMEOUT, without=without, seconds=seconds, seed=0, **newest)
    for seed, caller in enumerate(callers, start=1):
        caller.tell("call", patience=LOCK_TIMEOUT, without=without, seconds=seconds, pause=pause, seed=seed)
    told = chain.from_iterable(process.answer() for process in (follower, *callers))
    return sorted([*words, *told], key=lambda word: str(word["begun"]))


def tally(words: Sequence[Word], seconds: float) -> str:
    """Return how often each thing was done, and with what result, a line each."""
    counts = Counter((word["what"], word["error"] or "done") for word in words)
    lines = [f"{what:<10} {outcome:<28} {count:>7}" for (what, outcome), count in sorted(counts.items())]
    states = Counter(row.state for row in gather(words).rows)
    lines += [f"{'ended' if state != 'held' else 'left'} as {state:<10} {n:>7}" for state, n in sorted(states.items())]
    slowest = max(seconds_of(word) for word in words)
    return "\n".join([*lines, f"{counts['pick', 'done'] / seconds:.1f} routes a second; slowest call {slowest:.2f} s"])


def seconds_of(word: Word) -> float:
    begun, done = (dt.datetime.fromisoformat(word[key]) for key in ("begun", "done"))
    return (done - begun).total_seconds()


def kinds(verdict: Sequence[str]) -> Counter[str]:
    return Counter(sentence.partition(":")[0] for sentence in verdict)


@pytest.mark.usefixtures("ledger_clean_at_the_end")
def test_nothing_is_given_twice_whatever_callers_do(crew: Crew) -> None:
    before = deadlocks()
    words = run_campaign(crew, seconds=SECONDS, processes=PROCESSES)
    logger.info("%s", tally(words, SECONDS))
    assert judge(gather(words)) == []
    crew.dismiss()
    assert deadlocks() == before


row_locks = pytest.mark.skipif(
    connection.vendor == "sqlite", reason="SQLite has no row lock to take away: BEGIN IMMEDIATE is its lock"
)


@row_locks
def test_control_without_locks_the_judge_finds_it(crew: Crew) -> None:
    """What races do in a few seconds is luck: campaign again, from the beginning, until each was seen to do harm."""
    found: Counter[str] = Counter()
    deadline = time.monotonic() + DEADLINE
    while not {"block given twice", "executor shared"} <= found.keys():
        assert time.monotonic() < deadline, f"found only {found}"
        empty_tables()
        words = run_campaign(crew, seconds=3, processes=4, without="lock_account", pause=0.1)
        found += kinds(judge(gather(words)))
    logger.info("%s", found)


@row_locks
def test_control_a_deadlock_is_counted_and_judged(crew: Crew) -> None:
    before = deadlocks()
    fill_ledger("anna", "bert")
    first, second = crew.call(2)
    first.tell("lock", first="anna", second="bert", stop="after allowance.locks.lock_account")
    second.tell("lock", first="bert", second="anna", stop="after allowance.locks.lock_account")
    for process in (first, second):
        process.stopped()
    for process in (first, second):
        process.go_on()
    words = [first.answer(), second.answer()]
    assert kinds(judge(Evidence(said=[said(word) for word in words]))) == {"deadlock": 1}
    crew.dismiss()
    assert deadlocks() == before + 1
