"""A chain follower that is at work: its row, and the reports of its sources."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from allowance.models import Follower, SourceReport
from tests.clock import HOUR, MINUTE, NOW, SECOND

GENESIS = "0x" + "2f" * 32
CONTRACT, SHARED = "0x" + "c0" * 20, "0x" + "5a" * 20
ERROR = "The call state had no answer within 10 s."


def follow(now: dt.datetime = NOW, **fields: Any) -> Follower:
    """Let a follower have been seen 4 s ago, at block 1010."""
    what: dict[str, Any] = {
        "genesis": GENESIS,
        "netuid": 12,
        "hotkey": "5Validator",
        "source": "subtensor",
        "leader": "host-a, process 4711",
        "leads_since": now - HOUR,
        "seen_at": now - 4 * SECOND,
        "head": 1010,
        "head_at": now - 5 * SECOND,
    }
    follower, _ = Follower.objects.update_or_create(pk=1, defaults={**what, **fields})
    return follower


def report(name: str, now: dt.datetime = NOW, *, calls: dict[str, list[float]] | None = None, **fields: Any) -> None:
    """Let a source have answered 30 s ago. Fields of the row are set, all others are its detail."""
    of_row = {field.attname for field in SourceReport._meta.concrete_fields}
    row = {key: value for key, value in fields.items() if key in of_row}
    detail = {key: value for key, value in fields.items() if key not in of_row} | {"calls": calls or {}}
    what: dict[str, Any] = {"adapter": "subtensor", "good_at": now - 30 * SECOND, "detail": detail}
    SourceReport.objects.filter(pk=name).delete()
    SourceReport.objects.create(pk=name, **{**what, **row})


def follow_all(now: dt.datetime = NOW, hotkeys: Sequence[str] = ("hot-1", "hot-2", "hot-3")) -> None:
    """Let a follower read everything, with some trouble of each kind. There must be three hotkeys."""
    first, second, third = hotkeys
    follow(now)
    report(
        "blocks",
        now,
        calls={"latest": [200, 2, 10.0], "block": [100, 0, 25.0]},
        newest=1008,
        lag_blocks=2,
        lag_seconds=26.5,
        gaps=[[1003, 1003], [1005, 1005]],
        missing=2,
        discarded=1,
        unreadable=[[1005, 461, "no type 7"]],
        recorded=90,
    )
    report(
        "manifests",
        now,
        adapter="miners",
        good_at=now - 10 * MINUTE,
        failed_at=now - 2 * MINUTE,
        failures=3,
        error="Two thirds of the miners are silent.",
        calls={"manifests": [12, 3, 30.0]},
        block=1000,
        asked=3,
        answered=1,
        silent=[second, third],
        reasons={second: "Connection refused"},
        why={"No answer within 5 s": 1, "Connection refused": 2},
        held_back="2 of 3 miners that had executors did not answer. This sync is not recorded.",
        clipped=1,
    )
    report(
        "collateral",
        now,
        adapter="evm",
        good_at=now - 5 * MINUTE,
        calls={"eth_call": [9, 0, 4.5]},
        block=1001,
        contract=CONTRACT,
        associated=3,
        unknown={third: (now - 2 * HOUR).isoformat(), first: (now - HOUR).isoformat()},
        shared={SHARED: [first, second]},
    )
    report(
        "receipts",
        now,
        adapter="HTTP",
        calls={"page": [0, 0, 0.0]},
        taken=1234,
        refused={"forged": 2, "old": 40},
        miners={
            first: {"taken": 1000, "refused": 0, "good_at": (now - SECOND).isoformat(), "silent_since": None},
            second: {"taken": 234, "refused": 42, "good_at": (now - MINUTE).isoformat()},
            third: {"silent_since": (now - HOUR).isoformat()},
            "hot-quiet": {"good_at": now.isoformat()},
        },
    )
    report("settings", now, adapter="/etc/settings.json", calls={"read": [5, 0, 0.1]})
