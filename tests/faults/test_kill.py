"""kill -9 of a router between any two statements: all of what it was doing is stored, or nothing."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import asdict

import pytest
from django.db import connection
from django.utils import timezone

from allowance.ledger import to_bits
from allowance.models import Account, Block, Miner
from routing import routing
from tests.backends import wait_until_gone
from tests.factories import job_request
from tests.faults.aftermath import assert_unharmed
from tests.faults.operations import BLOCKS, JOB, MINERS, Scene
from tests.faults.processes import Child
from tests.faults.snapshot import Snapshot
from tests.ledgers import FIRST_BLOCK, fill_ledger

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def router(django_db_setup: None) -> Iterator[Child]:
    """The one router that lives through all of this file, while its forks die."""
    with Child() as child:
        yield child


def set_scene() -> Scene:
    """Fill the ledger; each miner had a hold that expired, and anna has one that lives."""
    fill_ledger(*MINERS, blocks=BLOCKS, executors=2)
    now = timezone.now()
    others = {name: [other for other in MINERS if other != name] for name in MINERS}
    for name in MINERS:
        routing().pick(job_request(), exclude=others[name], now=now - dt.timedelta(seconds=1000))
    held = routing().pick(job_request(), exclude=others["anna"], now=now)
    return Scene(held.allowance_reservation_id or 0, now.isoformat(), str(JOB))


def damage_ledger() -> None:
    """Make wrong whatever can be: what a block earned, who is registered, executors declared, what is held."""
    Block.objects.filter(pk=FIRST_BLOCK).update(ns=1)
    Miner.objects.filter(pk="bert").update(presence=())
    Account.objects.filter(miner="cleo").update(executors=7)
    for account in Account.objects.filter(miner__in=["anna", "bert"]):
        account.held |= to_bits([account.base + 3], account.base)
        account.save()


@pytest.mark.parametrize(
    ("operation", "commits", "statements"),
    [
        ("pick", 1, 2),
        ("reserve", 1, 6),
        ("spend", 1, 4),
        ("undo", 1, 4),
        ("record_block", 1, 12),
        ("record_manifests", 1, 8),
        ("record_collateral", 1, 2),
        ("record_receipt", 1, 1),
        ("report_incident", 1, 3),
        ("repair", 3, 20),
        ("replay_journal", 2, 25),
    ],
)
def test_killed_at_any_moment_all_or_nothing_is_stored(
    router: Child, operation: str, commits: int, statements: int
) -> None:
    """Kill it before each statement, before and after each COMMIT, until it gets through unharmed.

    What is stored depends only on how many COMMITs there were: none, as before; all, as after a run that nobody killed.
    """
    scene = asdict(set_scene())
    before = Snapshot()
    assert_unharmed(router.pick)  # its first pick has more to read than the others
    before.restore()
    if operation == "repair":
        damage_ledger()
    before = Snapshot()
    states = {0: before.state()}
    unharmed = router.ask(operation, **scene, die_at=0)
    assert "error" not in unharmed
    assert not unharmed["killed"]
    moments = unharmed["moments"]
    assert unharmed["commits"] >= commits
    assert len(moments) >= statements + 2 * commits
    states[unharmed["commits"]] = before.state()
    assert states[unharmed["commits"]] != states[0]

    kills = 0
    for k, moment in enumerate(moments, start=1):
        before.restore()
        if connection.vendor == "sqlite":
            connection.close()  # the dead was the last to have the file open, and the next finds what it left
        dead = router.ask(operation, **scene, die_at=k)
        assert dead["killed"], f"{operation} outlived moment {k}: {moment}"
        assert dead["moments"] == moments[:k]
        if dead["backend"]:
            wait_until_gone([dead["backend"]])
        state = before.state()
        assert states.setdefault(dead["commits"], state) == state, f"{operation} killed at moment {k}: {moment}"
        if operation == "repair":
            router.ask("repair")  # one that was cut short is done again
            assert before.state() == states[unharmed["commits"]]
        assert_unharmed(router.pick)
        kills += 1
    assert kills == len(moments)
    assert states.keys() == set(range(unharmed["commits"] + 1))
