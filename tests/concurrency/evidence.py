"""Gather the evidence for the verdict: the words of the processes, and the tables by plain SQL."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.db import connection

from tests.concurrency.operations import Word
from tests.concurrency.verdict import FOR_EVER, Evidence, Moment, Neurons, Route, Row, Run, Said, Sync


def gather(words: Sequence[Word]) -> Evidence:
    """Return all evidence; the first words on manifests and on neurons must be on those at the beginning."""
    known = {word["job"]: moment(word["done"]) for word in words if word["what"] == "start"}
    good = [word for word in words if word["error"] is None]
    return Evidence(
        routes=[route(word) for word in good if word["what"] == "pick"],
        rows=stored_rows(),
        said=[said(word) for word in words],
        runs=stored_runs(known),
        finished=stored_ends(),
        syncs=[sync(word) for word in good if word["what"] == "manifests"],
        neurons=[neurons(word) for word in good if word["what"] == "block" and word["hotkeys"] is not None],
    )


def moment(value: Any) -> Moment:
    """Return a moment in UTC, from JSON, or from a database that may have dropped the zone, or have it as text."""
    when: Moment = dt.datetime.fromisoformat(value) if isinstance(value, str) else value
    return when.replace(tzinfo=dt.UTC) if when.tzinfo is None else when.astimezone(dt.UTC)


def said(word: Word) -> Said:
    return Said(
        word["what"],
        moment(word["begun"]),
        moment(word["done"]),
        word["error"],
        word.get("cause"),
        word.get("reservation", 0),
    )


def route(word: Word) -> Route:
    got = word["result"]
    return Route(
        got["reservation"],
        got["miner"],
        word["executor_class"],
        word["job"],
        tuple(got["blocks"]),
        moment(word["begun"]),
        moment(word["done"]),
    )


def sync(word: Word) -> Sync:
    return Sync(word["block"], word["executors"], moment(word["begun"]), moment(word["done"]))


def neurons(word: Word) -> Neurons:
    return Neurons(frozenset(word["hotkeys"]), moment(word["begun"]), moment(word["done"]))


def select(sql: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


def stored_rows() -> list[Row]:
    return [
        Row(
            pk,
            miner,
            executor_class,
            str(UUID(str(job))),
            tuple(json.loads(blocks)),
            moment(made),
            moment(expires),
            state,
            ended and moment(ended),
        )
        for pk, miner, executor_class, job, blocks, made, expires, state, ended in select(
            "SELECT r.id, a.miner_id, a.executor_class, r.job_uuid, r.blocks, r.created_at, r.expires_at, r.state,"
            " r.ended_at FROM allowance_reservation r JOIN allowance_account a ON a.id = r.account_id"
        )
    ]


def stored_runs(known: dict[str, Moment]) -> list[Run]:
    """Return the started receipts; a receipt counts from when its writer was told that it is stored."""
    return [
        Run(
            miner,
            executor_class,
            job := str(UUID(str(uuid))),
            max(moment(timestamp), known.get(job, FOR_EVER)),
            moment(timestamp) + dt.timedelta(seconds=ttl),
        )
        for uuid, miner, executor_class, timestamp, ttl in select(
            "SELECT job_uuid, miner_hotkey, executor_class, timestamp, ttl FROM router_receipts_jobstartedreceipt"
        )
    ]


def stored_ends() -> dict[str, Moment]:
    return {
        str(UUID(str(uuid))): moment(timestamp)
        for uuid, timestamp in select("SELECT job_uuid, timestamp FROM router_receipts_jobfinishedreceipt")
    }


def deadlocks() -> int:
    """Return how many deadlocks PostgreSQL has counted here. A process's count arrives when it ends, if not before."""
    if connection.vendor != "postgresql":
        return 0
    ((count,),) = select("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    return int(count)
