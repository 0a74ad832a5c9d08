"""What a child can be asked to do, by name. Each takes the scene that the test has set; all results go into JSON."""

from __future__ import annotations

import datetime as dt
import json
import resource
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID, uuid4

from allowance import allowance
from allowance.oversight.audit import check_ledger
from receipts import receipts
from receipts.schemas import JobStarted
from routing import routing
from routing.types import MinerIncidentType
from routing.upkeep.journal import replay
from tests.factories import EXECUTOR_CLASS, job_request, run_command
from tests.faults.aftermath import Route
from tests.faults.load import serve_jobs
from tests.ledgers import CLASS, FIRST_BLOCK
from tests.programs import say

JOB, OTHER_JOB = UUID(int=1), UUID(int=2)
BLOCKS = 12
NEXT_BLOCK = FIRST_BLOCK + BLOCKS
MINERS = ("anna", "bert", "cleo")
JOURNALED = 1_000_000
"""The id of the reservation in the journal, far from those that the tests draw."""


@dataclass(frozen=True)
class Scene:
    """What an operation finds: a reservation that is held, the time, a job to route, the size that files may have."""

    held: int = 0
    at: str = ""
    job: str | None = None
    bytes: int | None = None


def pick(scene: Scene) -> Route:
    return Route.of(routing().pick(job_request(uuid=scene.job or str(uuid4()))))


def reserve(_: Scene) -> object:
    return allowance().reserve_allowance(
        miner="bert", executor_class=CLASS, allowance_seconds=30, job_start_block=NEXT_BLOCK, job_uuid=JOB
    )


def record_block(scene: Scene) -> None:
    """Record a block in which one miner has left and one has come."""
    allowance().record_block(
        number=NEXT_BLOCK,
        timestamp=dt.datetime.fromisoformat(scene.at),
        stake_share=0.5,
        hotkeys=["anna", "bert", "dora"],
    )


def record_manifests(_: Scene) -> None:
    """Record a sync in which one miner drops, one rises, one does not answer, and one is new."""
    axons = {name: {"address": "10.1.1.1", "ip_version": 4, "port": 9001} for name in (*MINERS, "dora")}
    counts = {"anna": {CLASS: 1}, "bert": {CLASS: 3}, "dora": {CLASS: 2}}
    allowance().record_manifests(block=NEXT_BLOCK - 2, axons=axons, executors=counts)


def record_receipt(scene: Scene) -> None:
    receipts().record(
        JobStarted(
            job_uuid=JOB,
            miner_hotkey="anna",
            validator_hotkey="validator",
            timestamp=dt.datetime.fromisoformat(scene.at),
            executor_class=CLASS,
            ttl=60,
        )
    )


def replay_journal(scene: Scene) -> object:
    """Replay a journal with several kinds of events, in two transactions."""
    times = {"timestamp": scene.at}
    job = {"job_uuid": str(JOB), "miner_hotkey": "anna", "validator_hotkey": "validator", **times}
    took = {"time_started": scene.at, "time_took_us": 5, "score_str": "1", "block_numbers": [FIRST_BLOCK]}
    begun = dt.datetime.fromisoformat(scene.at)
    lasts = {"created_at": scene.at, "expires_at": (begun + dt.timedelta(seconds=130)).isoformat()}
    lines: list[dict[str, object]] = [
        {"event": "block", "number": NEXT_BLOCK, "stake_share": 0.5, **times},
        {
            "event": "incident",
            "type": MinerIncidentType.MINER_JOB_FAILED.value,
            "hotkey": "anna",
            "job_uuid": str(JOB),
            "executor_class": CLASS,
            **times,
        },
        {"event": "job_finished", **took, **job},
        {
            "event": "reservation",
            "id": JOURNALED,
            "miner": "cleo",
            "executor_class": CLASS,
            "job_uuid": str(OTHER_JOB),
            "blocks": [NEXT_BLOCK - 3],
            "state": "spent",
            "ended_at": scene.at,
            **lasts,
        },
    ]
    return list(replay([json.dumps(line).encode() for line in lines], batch=2))


def limit_files(scene: Scene) -> None:
    """Let no file of this process grow beyond so many bytes, as if the disk were full."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most if scene.bytes is None else scene.bytes, most))


WRITES: dict[str, Callable[[Scene], object]] = {
    "pick": pick,
    "reserve": reserve,
    "spend": lambda scene: allowance().spend_allowance(scene.held),
    "undo": lambda scene: allowance().undo_allowance_reservation(scene.held),
    "record_block": record_block,
    "record_manifests": record_manifests,
    "record_collateral": lambda _: allowance().record_collateral(hotkey="dora", wei=2**200),
    "record_receipt": record_receipt,
    "report_incident": lambda _: routing().report_incident(
        MinerIncidentType.MINER_JOB_FAILED, "anna", str(JOB), EXECUTOR_CLASS
    ),
    "repair": lambda _: [str(difference) for difference in check_ledger(repair=True)],
    "replay_journal": replay_journal,
}
OPERATIONS = WRITES | {
    "dry_run": lambda _: run_command("dry_run_routing", "--executor-class", CLASS, "--seconds", 30),
    "limit_files": limit_files,
    "serve_jobs": lambda _: serve_jobs(say),
}
