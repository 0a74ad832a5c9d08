"""What docs/late-words.md says of evidence: receipts, incidents, and what a chain follower records."""

from __future__ import annotations

import datetime as dt
from uuid import UUID

from django.utils import timezone

from allowance import allowance
from allowance.models import Account, Block, Miner
from receipts import receipts
from receipts.schemas import JobAccepted, JobFinished, JobStarted
from routing import routing
from routing.decision import reading
from routing.decision.reliability import incident_counts
from routing.types import MinerIncidentType
from tests.clock import NOW, SECOND
from tests.factories import job_request
from tests.integration.late_words import JOB, TTL, ReceiptKind, Step, Table, World, receipt, report
from tests.ledgers import CLASS, FIRST_BLOCK, fill_ledger
from tests.rows import declare, mint

KINDS: dict[str, ReceiptKind] = {"started": JobStarted, "accepted": JobAccepted, "finished": JobFinished}
LONG_AGO, SOON = -TTL - 1, 60


def after(*steps: Step) -> Step:
    """Return the step that takes all `steps`."""

    def take(world: World) -> None:
        for step in steps:
            step(world)

    return take


def passing(seconds: int) -> Step:
    return lambda world: world.clock.shift(seconds)


def see_executor(_world: World) -> dict[str, str]:
    busy = receipts().get_busy_executor_count(CLASS, timezone.now())
    return {"job": {"anna": "ongoing", "bert": "ongoing elsewhere"}[next(iter(busy))] if busy else "idle"}


RECEIPTS = Table(
    states={
        "none": after(),
        "started": receipt(JobStarted),
        "started, over": receipt(JobStarted, LONG_AGO),
        "accepted only": receipt(JobAccepted),
        "started, over; accepted": after(receipt(JobStarted, LONG_AGO), receipt(JobAccepted)),
        "started, accepted": after(receipt(JobStarted), receipt(JobAccepted)),
        "finished only": receipt(JobFinished),
        "started, finished": after(receipt(JobStarted), receipt(JobFinished)),
        "started, finished soon": after(receipt(JobStarted), receipt(JobFinished, SOON)),
    },
    events={
        f"{word}{when}": step
        for word, kind in KINDS.items()
        for when, step in {
            "": receipt(kind),
            ", by another miner": receipt(kind, miner="bert"),
            ", dated soon": receipt(kind, SOON),
            ", dated long ago": receipt(kind, LONG_AGO),
        }.items()
    }
    | {"60 s pass": passing(SOON), "the ttl is over": passing(TTL + 1)},
    look=see_executor,
)


def block(number: int, *, minted: int | None = None, share: float = 0.5, hotkeys: list[str] | None = None) -> Step:
    """Return the step that records a block, minted when block number `minted` should have been."""
    at = NOW + 12 * ((minted or number) - FIRST_BLOCK) * SECOND
    return lambda _world: mint(number, at, share=share, hotkeys=hotkeys)


def see_earning(_world: World) -> dict[str, str]:
    return {"earning": str(Block.objects.filter(ns__isnull=False).count())}


BLOCKS = Table(
    states={
        "nothing recorded": after(),
        "1000 to 1003": after(*map(block, range(1000, 1004))),
        "1002 missing": after(block(1000), block(1001), block(1003)),
    },
    events={
        "1004, the next": block(1004),
        "999": block(999),
        "1001 again, unchanged": block(1001),
        "1001 with another share": block(1001, share=0.6),
        "1001 with other neurons": block(1001, hotkeys=["bert"]),
        "1002": block(1002),
        "1002, minted before 1001": block(1002, minted=1000),
        "1002, minted after 1003": block(1002, minted=1004),
        "1004, minted before 1003": block(1004, minted=1000),
    },
    look=see_earning,
)


def manifest(executors: int, number: int) -> Step:
    return lambda _world: declare({"anna": executors}, number)


def see_executors(_world: World) -> dict[str, str]:
    account = Account.objects.filter(miner="anna").first()
    return {"executors": str(account.executors) if account else "none"}


MANIFESTS = Table(
    states={
        "none": after(),
        "2 at 1000": manifest(2, 1000),
        "2 at 1000, 1 at 1003": after(manifest(2, 1000), manifest(1, 1003)),
        "1 at 1003, then 4": after(manifest(1, 1003), manifest(4, 1003)),
    },
    events={
        "2 at 1000": manifest(2, 1000),
        "3 at 1000": manifest(3, 1000),
        "1 at 1003": manifest(1, 1003),
        "4 at 1003": manifest(4, 1003),
        "5 at 1004": manifest(5, 1004),
    },
    look=see_executors,
)


def collateral(wei: int) -> Step:
    return lambda _world: allowance().record_collateral(hotkey="anna", wei=wei)


def see_collateral(_world: World) -> dict[str, str]:
    miner = Miner.objects.filter(hotkey="anna").first()
    return {"collateral": str(miner.wei) if miner else "none"}


COLLATERAL = Table(
    states={"unknown miner": after(), "5 Wei": collateral(5), "5 Wei, then 7": after(collateral(5), collateral(7))},
    events={"5 Wei": collateral(5), "7 Wei": collateral(7), "-1 Wei": collateral(-1)},
    look=see_collateral,
)


def routed(_world: World) -> None:
    fill_ledger("anna", "bert")
    routing().pick(job_request(uuid=str(JOB)))


def see_incidents(_world: World) -> dict[str, str]:
    now = timezone.now()
    version = reading.read(CLASS, now).in_force.incidents
    counts = incident_counts(CLASS, now, dt.timedelta(days=1), version=version)
    return {"incidents": str(counts.get("anna", 0))}


INCIDENTS = Table(
    states={"none": routed, "reported": after(routed, report())},
    events={
        "the same": report(),
        "of another type": report(kind=MinerIncidentType.MINER_JOB_REJECTED),
        "of an unknown type": report(kind="MINER_LATE"),
        "of another miner": report(miner="bert"),
        "of an unknown miner": report(miner="carl"),
        "of a job never routed": report(UUID(int=2)),
    },
    look=see_incidents,
)
