"""Routers as real processes: each a fresh interpreter on the test database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from django.db import connection


@dataclass(frozen=True)
class Picked:
    """What a router's caller got: the route's miner and blocks, or the refusal's name."""

    miner: str | None
    blocks: list[int]
    refusal: str | None


def pick_side_by_side(
    *, processes: int, picks: int, seconds: int, executor_class: str, locking: bool = True, pause: float = 0.02
) -> list[Picked]:
    """Let `processes` routers make `picks` picks each, all beginning at once, and return what their callers got.

    Each pauses, for `pause` seconds, between looking at an account and writing it, so that races show; without
    `locking` they do.
    """
    task = {
        "database": connection.settings_dict["NAME"],
        "picks": picks,
        "seconds": seconds,
        "executor_class": executor_class,
        "locking": locking,
        "pause": pause,
    }
    command = [sys.executable, "-m", "tests.concurrency.router", json.dumps(task)]
    routers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        for _ in range(processes)
    ]
    try:
        for router in routers:
            assert router.stdout is not None
            assert router.stdout.readline() == "ready\n"
        for router in routers:
            assert router.stdin is not None
            router.stdin.write("go\n")
            router.stdin.flush()
        answers = [router.communicate(timeout=120)[0] for router in routers]
    finally:
        for router in routers:
            router.kill()
            router.wait()
    assert [router.returncode for router in routers] == [0] * processes
    return [Picked(**line) for answer in answers for line in map(json.loads, answer.splitlines())]


def overlaps(picked: Sequence[Picked]) -> int:
    """Return how many blocks of a miner were given more than once."""
    given = [(p.miner, block) for p in picked for block in p.blocks]
    return len(given) - len(set(given))
