"""Writing a journal: what goes out comes in again, once, and gives the same answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import time_machine
from django.db import models

from allowance import allowance, reservations
from allowance.models import Account, Block, ManifestSync, Miner, NeuronList, Reservation, ReservationState
from allowance.oversight.audit import check_ledger
from allowance.types import MAX_WEI
from receipts.models import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt
from receipts.ongoing import end as end_receipts
from receipts.schemas import JobAccepted, JobFinished, JobStarted
from routing.decision.book import LiveBook
from routing.incidents import void_incident
from routing.models import MinerIncident
from routing.upkeep.journal import export
from tests.clock import HOUR, MINUTE, NOW, SECOND, TICK, noon
from tests.factories import draw, run_command, stored
from tests.ledgers import CLASS, FIRST_BLOCK, fill_ledger
from tests.programs import Finished
from tests.rows import REJECTED, free, hold, receive, report, reserve

pytestmark = noon

JOBS = [UUID(int=i) for i in range(10)]
HISTORY: list[type[models.Model]] = [
    *(Reservation, Account, Miner, Block, NeuronList, ManifestSync, MinerIncident),
    *(JobStartedReceipt, JobAcceptedReceipt, JobFinishedReceipt),
]
"""All tables, each before those that it refers to."""


@pytest.fixture(autouse=True)
def history(transactional_db: None) -> None:
    """Record a history with some of everything, up to now."""
    axons = {name: {"address": "2001:db8::1", "ip_version": 6, "port": 9000} for name in ("hot-1", "hot-2", "hot-3")}
    allowance().record_manifests(block=FIRST_BLOCK - 10, axons=axons, executors={"hot-1": {CLASS: 3}})
    fill_ledger("hot-1", "hot-2", "hot-3")
    allowance().record_collateral(hotkey="hot-1", wei=MAX_WEI)
    allowance().record_collateral(hotkey="elsewhere", wei=10**18 + 1)
    made: list[Any] = [
        ("hot-1", HOUR, None),  # expired, and noted as such when the next one is made
        ("hot-1", MINUTE, reservations.spend),
        ("hot-1", MINUTE, reservations.release),
        ("hot-1", MINUTE, None),
        ("hot-2", MINUTE, None),  # held, and void by the drop below
        ("hot-2", MINUTE, reservations.spend),  # spent, and void too
        ("hot-3", HOUR, None),  # expired, and nobody has noted it
    ]
    for number, (miner, age, end) in enumerate(made):
        job = JOBS[number] if number != 3 else None
        at = NOW - age
        pk = reserve(miner, job=job, now=at)
        if end:
            end(pk, now=at + SECOND)
    allowance().record_manifests(
        block=FIRST_BLOCK + 15,
        axons={name: {"address": "10.0.0.9", "ip_version": 4, "port": 9} for name in ("hot-1", "hot-2")},
        executors={"hot-1": {CLASS: 4}, "hot-2": {CLASS: 1, "always_on.test": 2}},
    )
    allowance().record_block(number=FIRST_BLOCK + 21, timestamp=NOW, stake_share=0.1, hotkeys=["hot-1", "hot-2"])
    allowance().record_block(number=FIRST_BLOCK + 30, timestamp=NOW + HOUR / 6, stake_share=1 / 3)
    for i, job in enumerate(JOBS[7:]):
        at = NOW - 10 * i * SECOND - TICK
        receive(JobStarted, job, "hot-1", at=at)
        receive(JobAccepted, job, "hot-1", at=at, ttl=600)
        report("hot-2", job, kind=REJECTED, at=at)
    void_incident(MinerIncident.objects.get(job_uuid=JOBS[8]).pk, by="boss", reason="no fault of its", now=NOW)
    receive(JobFinished, JOBS[7], "hot-1", score_str="0.5", block_numbers=[FIRST_BLOCK])
    end_receipts(JOBS[9], "hot-1", NOW - SECOND)
    end_receipts(JOBS[8], "hot-1", NOW - SECOND, of=[JobAcceptedReceipt])


def forget() -> None:
    """Empty the database."""
    for model in HISTORY:
        model._default_manager.all().delete()


def replay(folder: Path, *lines: str) -> Finished:
    (folder / "journal.jsonl").write_text("\n".join(lines))
    return run_command("replay_journal", folder / "journal.jsonl")


def answers() -> list[Any]:
    """Ask what a history is asked: who has allowance, what became of reservations, which jobs are ongoing."""
    found: list[Any] = []
    for at in (NOW, NOW + HOUR / 30, NOW + HOUR / 2):
        with time_machine.travel(at, tick=False):
            for need, start in ((1, FIRST_BLOCK + 30), (90, FIRST_BLOCK + 30), (20, FIRST_BLOCK + 5)):
                found.append(free(need, start))
            states = {r.pk: r.state_at(at) for r in Reservation.objects.all()}
            rows = LiveBook().read(CLASS, at).state.rows
            found += [states, {hotkey: row.ongoing for hotkey, row in rows.items() if row.ongoing}]
            found += [allowance().miners(), allowance().get_manifests()]
    return found


def test_replaying_a_history_again_changes_nothing(tmp_path: Path) -> None:
    lines = list(export())
    before = stored()
    for _ in range(2):
        assert replay(tmp_path, *lines).code == 0
        assert stored() == before


@pytest.mark.parametrize("name", ["journal.jsonl", "journal.jsonl.gz"])
def test_a_history_replayed_into_an_empty_database_is_the_same_history(name: str, tmp_path: Path) -> None:
    assert {r.state for r in Reservation.objects.all()} == set(ReservationState)
    before, lines = answers(), list(export())
    assert run_command("export_journal", tmp_path / name).out == f"Wrote {len(lines)} entries to {tmp_path / name}.\n"
    forget()
    assert list(export()) == []
    assert run_command("replay_journal", tmp_path / name).code == 0
    assert list(export()) == lines
    assert answers() == before
    assert list(check_ledger()) == []
    assert run_command("export_journal").out.splitlines() == lines


def test_a_replayed_ledger_keeps_the_old_ids_and_gives_none_of_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, ids = list(export()), {row.pk for row in Reservation.objects.all()}
    forget()
    assert replay(tmp_path, *lines).code == 0
    assert {row.pk for row in Reservation.objects.all()} == ids
    draw(monkeypatch, *ids, unused := max(ids) + 1)
    assert hold("hot-1", 1, FIRST_BLOCK + 30)[0] == unused
    assert list(check_ledger()) == []


def said_of_incidents() -> list[dict[str, Any]]:
    return [line for line in map(json.loads, export()) if line["event"] == "incident"]


def test_a_voided_incident_is_replayed_as_such(tmp_path: Path) -> None:
    void = {"voided_at": "2026-01-01T12:00:00Z", "voided_by": "boss", "void_reason": "no fault of its"}
    said = said_of_incidents()
    assert [{name: line[name] for name in void if name in line} for line in said] == [{}, void, {}]
    MinerIncident.objects.all().delete()
    assert replay(tmp_path, *map(json.dumps, said)).code == 0
    assert said_of_incidents() == said


def test_what_a_journal_says_of_voids_is_added_and_never_taken_away(tmp_path: Path) -> None:
    """The first word stays: an older journal, or another reason, changes nothing."""
    said = said_of_incidents()
    older = [{name: line[name] for name in line if not name.startswith("void")} for line in said]
    otherwise = [line | {"voided_by": "carl", "void_reason": "other", "voided_at": NOW.isoformat()} for line in said]
    assert replay(tmp_path, *map(json.dumps, older)).code == 0
    assert said_of_incidents() == said
    assert replay(tmp_path, *map(json.dumps, otherwise)).code == 0
    assert [line["voided_by"] for line in said_of_incidents()] == ["carl", "boss", "carl"]
    assert said_of_incidents()[1] == said[1]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"blocks": [FIRST_BLOCK + 9]}, "has another reservation with the id"),
        ({"job_uuid": str(JOBS[9])}, "has another reservation with the id"),
        ({"miner": "hot-2"}, "has another reservation with the id"),
        ({"state": "released", "ended_at": NOW.isoformat()}, "has another reservation with the id"),
        ({"id": 10**6}, f"Reservation {10**6} uses blocks that another reservation uses already"),
        ({"id": 10**6, "miner": "hot-9"}, "hot-9 has no account"),
        ({"id": 10**6, "blocks": [2**62]}, str(2**62)),
    ],
    ids=repr,
)
def test_a_reservation_that_contradicts_the_ledger_is_refused(
    change: dict[str, Any], named: str, tmp_path: Path
) -> None:
    row = Reservation.objects.get(job_uuid=None)
    ours = next(said for said in map(json.loads, export()) if said.get("id") == row.pk)
    before = stored()
    ended = replay(tmp_path, json.dumps({**ours, **change}))
    assert ended.code == 2
    assert named in ended.err
    assert stored() == before


def test_an_export_never_overwrites_a_file(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text("precious")
    ended = run_command("export_journal", tmp_path / "journal.jsonl")
    assert ended.code != 0
    assert "journal.jsonl" in ended.err
    assert (tmp_path / "journal.jsonl").read_text() == "precious"
