"""The acceptance test: the follower as a process, against a node, an EVM, miners and receipts, with all their faults.

Routers pick all the while. Afterwards the ledger is exactly what the script says.
"""

from __future__ import annotations

import datetime as dt
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection, connections
from django.utils import timezone

from allowance import allowance
from allowance.follow.blocks import stake_share
from allowance.models import Account, Block, Follower, ManifestSync, SourceReport
from allowance.models import Miner as MinerRow
from allowance.oversight.audit import check_ledger
from allowance.types import AllowanceException
from receipts.models import JobFinishedReceipt, JobStartedReceipt
from routing import service
from routing.requests import plain_request
from tests.ledgers import CLASS
from tests.live.chain import FIRST
from tests.live.fixtures import NEW
from tests.live.miners import LIES, Behaviour
from tests.live.subnet import OTHER, OURS, Subnet, serve_receipts, subnet
from tests.programs import Program, database_url, wait_until
from tests.receipts import signed, started

pytestmark = [pytest.mark.live, pytest.mark.django_db(transaction=True)]

BLOCKS = 200
"""The minimum number of blocks of the script."""

LIARS = dict(zip(range(40, 49), LIES.values(), strict=True))
"""Miners that invent their manifests from the beginning on."""

TROUBLE = {
    50: Behaviour.HANGS_AT_FIRST,
    51: Behaviour.HANGS,
    52: Behaviour.SENDS_TOO_MUCH,
    53: Behaviour.REDIRECTS,
    54: Behaviour.REFUSES,
    55: Behaviour.SENDS_NO_JSON,
    56: Behaviour.CLOSES,
    57: Behaviour.PINGS,
}
"""Miners that give no manifest from the beginning on."""

DROPPED, WENT = 5, 6
"""The miners that drop executors: one declares fewer, one does not answer any more."""

SHARED, FIRST_UID, GONE = (20, 21), 0, 22
"""The miners that share an EVM address, the one with uid 0, and the one whose association goes."""


def follow(net: Subnet, folder: Path, *options: str) -> Program:
    return Program(sys.executable, "manage.py", "follow_chain", *options, environment=net.environment(folder))


def report(name: str) -> dict[str, Any]:
    """Return what the follower has last reported of a source, with its error."""
    found = SourceReport.objects.filter(pk=name).first()
    return {**found.detail, "error": found.error} if found else {"error": ""}


def newest() -> int:
    return Block.objects.order_by("-number").values_list("number", flat=True).first() or 0


def reach(net: Subnet, *, more: int = 3) -> None:
    """Wait until the follower has recorded some blocks more than are finalized now."""
    number = net.chain.finalized.number + more
    wait_until(lambda: newest() >= number)


def synced(net: Subnet) -> int:
    """Wait for a manifest sync that begins after now. Return its block."""
    with net.mining:
        after = net.chain.head
    return wait_until(lambda: ManifestSync.objects.filter(block__gt=after).values_list("block", flat=True).first())


@contextmanager
def picking() -> Iterator[list[UUID]]:
    """Pick miners in a thread until the context ends; every other reservation is spent. Yield the routed jobs."""
    over, jobs, failed = threading.Event(), list[UUID](), list[Exception]()

    def pick() -> None:
        try:
            for spends in cycle([True, False]):
                if over.is_set():
                    break
                job = uuid4()
                route = service.pick(plain_request(CLASS, 1, job)).route
                if route and route.allowance_reservation_id is not None:
                    jobs.append(job)
                    try:
                        if spends:
                            allowance().spend_allowance(route.allowance_reservation_id)
                        else:
                            allowance().undo_allowance_reservation(route.allowance_reservation_id)
                    except AllowanceException as error:
                        failed.append(error)
                time.sleep(0.02)
        except Exception as error:
            failed.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=pick, name="picking")
    thread.start()
    try:
        yield jobs
    finally:
        over.set()
        thread.join()
    assert failed == []


def forge(net: Subnet, ours: UUID) -> set[str]:
    """Let miners serve genuine receipts and forged ones. Return the jobs whose started receipts must be stored."""
    now = timezone.now()
    keys = [miner.keypair for miner in net.miners]
    genuine = [started(now, miner=keys[n], validator=OTHER) for n in (1, 2, 3)]
    for number, receipt in zip((1, 2, 3), genuine, strict=True):
        serve_receipts(net.miners[number], receipt, at=now)
    unsigned = started(now, miner=keys[7], validator=OTHER)
    unsigned["validator_signature"] = unsigned["miner_signature"]
    finished = {
        "receipt_type": "JobFinishedReceipt",
        "job_uuid": str(ours),
        "miner_hotkey": keys[7].ss58_address,
        "validator_hotkey": OTHER.ss58_address,
        "timestamp": now.isoformat(),
        "time_started": now.isoformat(),
        "time_took_us": 1,
        "score_str": "1.0",
        "block_numbers": [],
    }
    forged = [
        started(now, miner=keys[8], validator=OTHER),  # about another miner
        started(now, miner=keys[7], validator=keys[9]),  # by no validator
        started(now + dt.timedelta(hours=1), miner=keys[7], validator=OTHER),
        unsigned,
        signed(finished, keys[7], OTHER),  # about a job that this site routed
    ]
    serve_receipts(net.miners[7], *forged, at=now)
    return {receipt["payload"]["job_uuid"] for receipt in genuine}


def shorten(net: Subnet) -> set[str]:
    """Let a miner replace its pages by one that is shorter. Return the job of the receipt on it."""
    now, miner = timezone.now(), net.miners[3]
    miner.pages.clear()
    receipt = started(now, miner=miner.keypair, validator=OTHER, executor_class="always_on.test")
    assert len(receipt["payload"]["executor_class"]) < len(CLASS)
    serve_receipts(miner, receipt, at=now)
    return {receipt["payload"]["job_uuid"]}


def deposit(net: Subnet) -> dict[str, int]:
    """Post collateral and associate addresses. Return the Wei that the ledger must have, by hotkey."""
    address = {n: f"0x{n + 1:040x}" for n in (0, 1, 2, *SHARED, GONE)}
    address[SHARED[1]] = address[SHARED[0]]
    with net.mining:
        for n in (0, 1, 2, SHARED[0], GONE):
            net.evm.deposit(net.contract, address[n], 10**16 + n)
        net.chain.evm.update(address)
    name = [miner.hotkey for miner in net.miners]
    shared = (10**16 + SHARED[0]) // 2
    return {
        name[0]: 10**16,
        name[1]: 10**16 + 1,
        name[2]: 10**16 + 2,
        **dict.fromkeys((name[n] for n in SHARED), shared),
    }


def collateral() -> dict[str, int]:
    return dict(MinerRow.objects.exclude(wei=0).values_list("hotkey", "wei"))


def fault(net: Subnet, act: Callable[[], None]) -> None:
    """Do something to the chain between two blocks."""
    with net.mining:
        act()


def misbehave(net: Subnet) -> None:
    """Let some miners lie, and others give no manifest."""
    for number, lie in LIARS.items():
        net.miners[number].manifest = lie
    for number, behaviour in TROUBLE.items():
        net.miners[number].behaviour = behaviour
    net.miners[DROPPED].manifest = {CLASS: 3}


def test_the_ledger_is_what_the_chain_finalized(tmp_path: Path) -> None:
    with subnet() as net, picking() as jobs:
        misbehave(net)
        wei = deposit(net)
        with follow(net, tmp_path) as first, follow(net, tmp_path) as second:
            wait_until(lambda: Follower.objects.exists() and ManifestSync.objects.exists())
            wait_until(lambda: jobs)
            leading, waiting = (first, second) if f"process {first.process.pid}" in leader() else (second, first)

            net.node.drop()
            reach(net)
            net.node.hang_up(1001)
            reach(net)
            for depth in (1, 2):
                fault(net, partial(net.chain.fork, depth))
                reach(net)
            stall(net)
            upgrade(net)
            go_silent(net)

            stored = forge(net, jobs[0])
            wait_until(lambda: stored <= set(map(str, JobStartedReceipt.objects.values_list("job_uuid", flat=True))))
            wait_until(lambda: sum(report("receipts").get("refused", {}).values()) >= 5)

            stored |= shorten(net)
            wait_until(lambda: stored <= set(map(str, JobStartedReceipt.objects.values_list("job_uuid", flat=True))))

            leading.process.send_signal(signal.SIGKILL)
            leading.process.wait()
            reach(net)
            assert f"process {waiting.process.pid}" in leader()

            net.miners[DROPPED].manifest = {CLASS: 1}
            net.miners[WENT].behaviour = Behaviour.CLOSES
            dropped = synced(net)
            wait_until(lambda: collateral().keys() >= wei.keys())
            go_dark(net)
            with net.mining:
                del net.chain.evm[GONE]
                net.evm.slash(net.contract, f"0x{2:040x}", 10**15)
            wei[net.miners[1].hotkey] -= 10**15
            wait_until(lambda: collateral() == wei)
            wait_until(lambda: newest() >= FIRST + BLOCKS)
            assert waiting.stop() == 0
        net.over.set()
        once = follow(net, tmp_path, "--once", "--only", "blocks").finish()
        assert once.code == 0, once.err

    assert_blocks(net)
    voided = set(Account.objects.filter(voided_before__gt=0).values_list("miner", "voided_before"))
    assert {miner for miner, _ in voided} == {net.miners[n].hotkey for n in (DROPPED, WENT)}
    assert {block for _, block in voided} == {dropped}
    assert collateral() == wei
    assert set(map(str, JobStartedReceipt.objects.values_list("job_uuid", flat=True))) == stored
    assert not JobFinishedReceipt.objects.exists()
    assert list(check_ledger()) == []
    assert_journal_replays(tmp_path)


def leader() -> str:
    return Follower.objects.get().leader


def stall(net: Subnet) -> None:
    """Stop finality for some blocks. Nothing that is not finalized is recorded meanwhile."""
    fault(net, lambda: setattr(net.chain, "finalizing", False))
    finalized = net.chain.finalized.number
    head = net.chain.head
    wait_until(lambda: net.chain.head > head + 8)
    assert newest() <= finalized
    fault(net, lambda: setattr(net.chain, "finalizing", True))
    reach(net)


def upgrade(net: Subnet) -> None:
    """Upgrade the chain's runtime."""
    fault(net, lambda: setattr(net.chain, "spec", NEW))
    reach(net)


def go_silent(net: Subnet) -> None:
    """Let the node answer nothing until it has discarded the state of blocks that the follower has not read.

    They stay missing, until the node has their state again.
    """
    net.node.silent = True
    recorded = newest()
    wait_until(lambda: net.chain.finalized.number > recorded + 40)
    fault(net, lambda: setattr(net.chain, "pruned_below", net.chain.finalized.number - 5))
    net.node.silent = False
    reach(net)
    wait_until(lambda: report("blocks").get("discarded"))
    fault(net, lambda: setattr(net.chain, "pruned_below", 0))


def go_dark(net: Subnet) -> None:
    """Let all miners be dark for one sync. The brake holds it back, and nothing is voided."""
    syncs = ManifestSync.objects.count()
    net.miners.dark = True
    wait_until(lambda: report("manifests").get("held_back"))
    assert ManifestSync.objects.count() == syncs
    net.miners.dark = False
    synced(net)


def assert_blocks(net: Subnet) -> None:
    """Compare the recorded blocks with the script, one by one."""
    scripted = net.scripted()
    recorded = {block.number: block for block in Block.objects.select_related("neurons")}
    assert recorded.keys() == scripted.keys()
    for number, block in scripted.items():
        found = recorded[number]
        assert (found.hash, found.timestamp) == (
            block.hash,
            block.timestamp.replace(microsecond=found.timestamp.microsecond),
        )
        assert found.stake_share == stake_share(block.neurons, OURS.ss58_address)
        assert found.neurons is not None
        assert found.neurons.hotkeys == sorted(neuron.hotkey for neuron in block.neurons)


def assert_journal_replays(folder: Path) -> None:
    """Export the journal, replay it into an empty database, and export it again: both are the same."""
    other = f"{connection.settings_dict['NAME']}_replayed"
    url = database_url().replace(str(connection.settings_dict["NAME"]), other)
    with connection.cursor() as server:
        server.execute(f'CREATE DATABASE "{other}"')
        try:
            journal = export(folder / "first.jsonl")
            for command in (("migrate", "-v0"), ("replay_journal", folder / "first.jsonl")):
                done = Program(sys.executable, "manage.py", *command, environment={"DATABASE_URL": url}).finish()
                assert done.code == 0, done.err
            assert export(folder / "second.jsonl", DATABASE_URL=url) == journal
        finally:
            server.execute(f'DROP DATABASE "{other}"')


def export(file: Path, **environment: object) -> str:
    done = Program(sys.executable, "manage.py", "export_journal", environment=environment).finish()
    assert done.code == 0, done.err
    file.write_text(done.out)
    return done.out
