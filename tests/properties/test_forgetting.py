"""Blocks that were forgotten leave the ledger as if they had never come, and a journal of it gives the same."""

from __future__ import annotations

import datetime as dt
import json
from random import Random
from typing import Any

import pytest
import time_machine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allowance import ledger, reservations
from allowance.chain import newest_block
from allowance.models import Account, Block, ManifestSync, Miner, Reservation, ReservationState
from allowance.oversight import forgetting
from allowance.oversight.audit import check_ledger
from allowance.types import AllowanceException, BlocksInUse
from routing.upkeep.entries import BlockEntry, ManifestsEntry, parse
from routing.upkeep.journal import export, replay
from tests.factories import empty_tables
from tests.properties.chain import CLASSES, MINERS, START, Chain, Event

pytestmark = pytest.mark.django_db(transaction=True)

NOW = START + dt.timedelta(hours=1)


def history(seed: int) -> list[Event]:
    """Record a history that is drawn from a seed, and return what of it was taken."""
    random = Random(seed)
    chain = Chain(random)
    events = [chain.mint(hotkeys=sorted(MINERS) if i == 0 else None) for i in range(4)]
    events.insert(random.randint(0, 4), chain.first_manifests(1003))
    events += [
        random.choice([chain.block, chain.block, chain.block, chain.manifests, chain.collateral])() for _ in range(30)
    ]
    return [event for event in events if taken(event)]


def taken(event: Event) -> bool:
    try:
        parse(json.dumps(event)).apply()
    except ValueError:
        return False
    return True


def number_of(line: object) -> int:
    match line:
        case BlockEntry():
            return line.number
        case ManifestsEntry():
            return line.block
    return -1


def reserve_some(random: Random) -> None:
    """Make reservations, and end some of them; none that is spent has one of the newest blocks."""
    for _ in range(12):
        try:
            made = reservations.reserve(
                miner=random.choice(MINERS),
                executor_class=random.choice(CLASSES),
                seconds=random.choice([1, 10, 30]),
                job_start_block=newest_block() + random.choice([0, 0, 720, 722]),
                job_uuid=None,
                now=NOW - dt.timedelta(seconds=random.choice([0, 50, 1000])),
            )
            end = random.choice([None, None, reservations.release, reservations.spend])
            if end:
                end(made.pk, now=made.created_at)
        except AllowanceException:
            continue


def of_the_chain(*, counted: bool) -> dict[str, Any]:
    """Return what the database says, as far as it is remembered; `counted`: without accounts of no executors."""
    horizon = newest_block() - ledger.KEPT_BLOCKS
    accounts = {
        (a.miner_id, a.executor_class): (a.executors, a.voided_before, ledger.forget(a.counts, horizon))
        for a in Account.objects.all()
        if not counted or a.counts
    }
    miners = {
        m.hotkey: (m.address, m.ip_version, m.port, m.wei, ledger.forget(m.presence, horizon))
        for m in Miner.objects.all()
        if m.presence or m.wei or m.address
    }
    blocks = {
        b.number: (b.timestamp, b.stake_share, b.ns, b.neurons and b.neurons.hotkeys)
        for b in Block.objects.select_related("neurons")
    }
    syncs = list(ManifestSync.objects.order_by("pk").values_list("block", "digest", "silent"))
    return {"accounts": accounts, "miners": miners, "blocks": blocks, "syncs": syncs}


def of_reservations() -> dict[str, Any]:
    horizon = newest_block() - ledger.KEPT_BLOCKS
    taken_by = {
        str(a): [[n for n in ledger.to_blocks(bits, a.base) if n >= horizon] for bits in (a.held, a.spent)]
        for a in Account.objects.all()
    }
    rows = Reservation.objects.order_by("pk").values_list("pk", "account__miner", "blocks", "state", "ended_at")
    return {"taken": taken_by, "rows": list(rows)}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), back=st.integers(-1, 15))
def test_the_ledger_is_as_if_they_had_never_come(seed: int, back: int) -> None:
    empty_tables()
    with time_machine.travel(NOW, tick=False):
        told = history(seed)
        reserve_some(Random(seed))
        first = max(0, newest_block() - back)
        spent = [b for r in Reservation.objects.filter(state=ReservationState.SPENT) for b in r.blocks]
        live = Reservation.objects.filter(state=ReservationState.HELD, expires_at__gt=NOW)
        held = any(max(reservation.blocks) >= first for reservation in live)
        if max(spent, default=-1) >= first:
            with pytest.raises(BlocksInUse, match=str(max(spent) + 1)):
                forgetting.forget_blocks(first, release_held=True)
            first = max(spent) + 1
            held = any(max(reservation.blocks) >= first for reservation in live.all())
        if held:
            with pytest.raises(BlocksInUse, match="--release-held"):
                forgetting.forget_blocks(first)
        forgetting.forget_blocks(first, release_held=True)
        assert list(check_ledger()) == []
        assert all(r.blocks[-1] < first for r in live.all())

        forgotten, reserved, lines = of_the_chain(counted=False), of_reservations(), list(export())
        empty_tables()
        list(replay(line.encode() for line in lines))
        assert (of_the_chain(counted=False), of_reservations()) == (forgotten, reserved)
        assert list(export()) == lines
        assert list(check_ledger()) == []

        never = of_the_chain(counted=True)
        empty_tables()
        for event in told:
            line = parse(json.dumps(event))
            number = (
                line.number if isinstance(line, BlockEntry) else line.block if isinstance(line, ManifestsEntry) else -1
            )
            if number < first:
                line.apply()
        assert of_the_chain(counted=True) == never
