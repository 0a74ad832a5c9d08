"""check_ledger and reservations, as an operator calls them."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
import time_machine
from django.db import connection

from allowance import reservations
from allowance.models import Account, Block, LedgerCheck, Miner, Reservation, ReservationState
from allowance.oversight import audit
from allowance.types import RESERVATION_MARGIN
from tests.clock import MINUTE, NOW, noon
from tests.factories import run_command, stored
from tests.ledgers import CLASS, FIRST_BLOCK, NEWEST
from tests.rows import free, reserve

JOB = UUID(int=1)
pytestmark = [pytest.mark.django_db, noon, pytest.mark.miners("hot-1", "hot-2")]

Corrupt = Callable[[], object]


@pytest.fixture(autouse=True)
def rows(ledger: None) -> None:
    """hot-1 has a reservation that is held, and one that is spent, hot-2 another that is held."""
    reserve("hot-1", job=JOB, now=NOW - MINUTE)
    reservations.spend(reserve("hot-1", job=JOB), now=NOW)
    reserve("hot-2")


def account(**change: object) -> Corrupt:
    return lambda: Account.objects.filter(miner="hot-1").update(**change)


def miner(**change: object) -> Corrupt:
    return lambda: Miner.objects.filter(pk="hot-2").update(**change)


def overlap(state: ReservationState) -> None:
    """Reserve what is reserved already, past all locks and checks."""
    Reservation.objects.create(
        account=Account.objects.get(miner="hot-1"),
        blocks=[FIRST_BLOCK, FIRST_BLOCK + 9],
        created_at=NOW,
        expires_at=NOW + RESERVATION_MARGIN,
        state=state,
        ended_at=None if state is ReservationState.HELD else NOW,
    )


def checked() -> dict[str, list[tuple[Any, ...]]]:
    """Return all that is stored but what is kept of the checks themselves."""
    return {name: rows for name, rows in stored().items() if name != LedgerCheck._meta.label}


CORRUPTIONS: dict[str, tuple[Corrupt, str, str]] = {
    "held lost": (account(held=0), "Account hot-1", "held"),
    "held too much": (account(held=0b111_000_000_111), "Account hot-1", "held"),
    "spent lost": (account(spent=0), "Account hot-1", "spent"),
    "spent what is held": (account(spent=0b111_111), "Account hot-1", "spent"),
    "base": (account(base=FIRST_BLOCK + 2, held=0, spent=0), "Account hot-1", "base"),
    "counts": (account(counts=((FIRST_BLOCK, 7),)), "Account hot-1", "counts"),
    "no counts": (account(counts=()), "Account hot-1", "counts"),
    "executors": (account(executors=9), "Account hot-1", "executors"),
    "voided before": (account(voided_before=FIRST_BLOCK + 4), "Account hot-1", "voided before"),
    "ns": (lambda: Block.objects.filter(pk=FIRST_BLOCK + 3).update(ns=7), f"Block {FIRST_BLOCK + 3}", "ns"),
    "no ns": (lambda: Block.objects.filter(pk=FIRST_BLOCK).update(ns=None), f"Block {FIRST_BLOCK}", "ns"),
    "ns of the newest": (lambda: Block.objects.filter(pk=NEWEST).update(ns=6 * 10**9), f"Block {NEWEST}", "ns"),
    "presence": (miner(presence=((FIRST_BLOCK + 5, 1),)), "Miner hot-2", "presence"),
    "no presence": (miner(presence=()), "Miner hot-2", "presence"),
}
corrupted = pytest.mark.parametrize(("corrupt", "subject", "field"), CORRUPTIONS.values(), ids=CORRUPTIONS)


def test_a_clean_ledger_is_called_so() -> None:
    before = checked()
    ended = run_command("check_ledger")
    assert ended == (0, "2 accounts, 3 reservations: the ledger agrees with its history.\n", "")
    assert run_command("check_ledger", "--repair").code == 0
    assert checked() == before


def test_a_clean_ledger_is_called_so_in_json() -> None:
    ended = run_command("check_ledger", "--format", "json")
    assert ended.code == 0
    assert json.loads(ended.out) == {"accounts": 2, "reservations": 3, "differences": [], "left": 0}


@corrupted
def test_a_wrong_column_is_named_and_nothing_is_touched(corrupt: Corrupt, subject: str, field: str) -> None:
    corrupt()
    before = checked()
    ended = run_command("check_ledger")
    assert ended.code == 1
    told = [said for said in ended.out.splitlines() if said.startswith(subject) and field in said]
    assert told, ended.out
    assert "history requires" in told[0]
    assert "differences" in ended.out.splitlines()[-1]
    assert checked() == before


@corrupted
def test_a_wrong_column_is_told_in_json(corrupt: Corrupt, subject: str, field: str) -> None:
    corrupt()
    ended = run_command("check_ledger", "--format", "json")
    report = json.loads(ended.out)
    assert ended.code == 1
    assert report["left"] == len(report["differences"]) > 0
    assert any(d["subject"].startswith(subject) and field in d["field"] for d in report["differences"])


@corrupted
def test_a_wrong_column_is_rewritten_from_history(corrupt: Corrupt, subject: str, field: str) -> None:
    right = checked()
    corrupt()
    assert checked() != right
    ended = run_command("check_ledger", "--repair")
    assert ended.code == 0
    assert subject in ended.out
    assert field in ended.out
    assert ended.out.endswith(", 0 left after the repair.\n")
    assert checked() == right
    assert run_command("check_ledger").code == 0


@pytest.mark.parametrize("state", [ReservationState.HELD, ReservationState.SPENT])
def test_reservations_that_overlap_are_told_and_no_repair_mends_them(state: ReservationState) -> None:
    overlap(state)
    for options in ([], ["--repair"], []):
        ended = run_command("check_ledger", *options)
        assert ended.code == 1
        assert re.search(rf"Reservation [0-9]+: block {FIRST_BLOCK} is also in reservation [0-9]+", ended.out)


def test_a_reservation_that_is_over_may_share_its_blocks() -> None:
    overlap(ReservationState.RELEASED)
    overlap(ReservationState.EXPIRED)
    assert run_command("check_ledger").code == 0


def test_the_result_of_a_check_is_kept() -> None:
    run_command("check_ledger")
    check = LedgerCheck.objects.get()
    assert (check.at, check.accounts, check.reservations) == (NOW, 2, 3)
    assert (check.differences, check.left, check.repaired, check.examples) == (0, 0, False, [])
    assert 0 < check.seconds < 60


def test_what_differed_is_kept_in_words_and_whether_it_was_mended() -> None:
    Account.objects.update(held=0)
    ended = run_command("check_ledger")
    run_command("check_ledger", "--repair", "--format", "json")
    found, mended = LedgerCheck.objects.order_by("pk")
    assert (found.differences, found.left, found.repaired) == (2, 2, False)
    assert found.examples == ended.out.splitlines()[:-1]
    assert (mended.differences, mended.left, mended.repaired) == (2, 0, True)
    assert mended.examples == found.examples


def test_only_the_first_differences_are_kept_and_all_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "EXAMPLES", 1)
    Account.objects.update(held=0)
    first, *_ = run_command("check_ledger").out.splitlines()
    check = LedgerCheck.objects.get()
    assert (check.differences, check.examples) == (2, [first])


@pytest.mark.parametrize(("corrupt", "code"), [(lambda: None, 0), (account(held=0), 1)])
def test_a_result_that_can_t_be_kept_is_told_all_the_same(corrupt: Corrupt, code: int) -> None:
    corrupt()
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE allowance_ledgercheck RENAME TO elsewhere")
    ended = run_command("check_ledger")
    assert ended.code == code
    assert ended.out.splitlines()[-1].startswith("2 accounts, 3 reservations: ")
    assert "could not be stored for the ledger page: " in ended.err
    assert "allowance_ledgercheck" in ended.err


def test_live_reservations_are_listed_the_next_to_lapse_first() -> None:
    ended = run_command("reservations")
    header, *rows = ended.out.splitlines()
    assert ended.code == 0
    assert header.split() == ["id", "miner", "executor", "class", "job", "blocks", "expires", "in"]
    first, second = Reservation.objects.filter(state=ReservationState.HELD).order_by("expires_at")
    assert rows[0].split() == [str(first.pk), "hot-1", CLASS, str(JOB), "3", "70", "s"]
    assert rows[1].split() == [str(second.pk), "hot-2", CLASS, "3", "130", "s"]
    assert len(rows) == 2


def test_live_reservations_are_listed_in_json_one_a_line() -> None:
    ended = run_command("reservations", "--format", "json")
    assert ended.code == 0
    first, second = map(json.loads, ended.out.splitlines())
    held = Reservation.objects.get(pk=first["id"])
    assert first == {
        "id": held.pk,
        "miner": "hot-1",
        "executor_class": CLASS,
        "job_uuid": str(JOB),
        "blocks": held.blocks,
        "created_at": held.created_at.isoformat(),
        "expires_at": held.expires_at.isoformat(),
    }
    assert (second["miner"], second["job_uuid"]) == ("hot-2", None)


def test_a_reservation_is_live_until_the_instant_at_which_it_lapses() -> None:
    expires = NOW + dt.timedelta(seconds=130)
    with time_machine.travel(expires - dt.timedelta(microseconds=1), tick=False):
        assert "hot-2" in run_command("reservations").out
    with time_machine.travel(expires, tick=False):
        assert run_command("reservations") == (0, "No live reservations.\n", "")
        assert run_command("reservations", "--format", "json") == (0, "", "")


@pytest.mark.parametrize(("option", "end"), [("--spend", "spent"), ("--release", "released")])
def test_a_reservation_is_ended_once(option: str, end: str) -> None:
    pk = Reservation.objects.get(account__miner="hot-2").pk
    assert run_command("reservations", option, pk) == (0, f"Reservation {pk} is {end}.\n", "")
    assert Reservation.objects.get(pk=pk).state == end
    assert run_command("check_ledger").code == 0
    before = stored()
    for again in ("--spend", "--release"):
        ended = run_command("reservations", again, pk)
        assert (ended.code, ended.out) == (1, "")
        assert f"Reservation {pk} " in ended.err
        assert end in ended.err
    assert stored() == before


@pytest.mark.parametrize(("option", "end"), [("--spend", "spent"), ("--release", "released")])
def test_the_end_of_a_reservation_is_told_in_json(option: str, end: str) -> None:
    pk = Reservation.objects.get(account__miner="hot-2").pk
    ended = run_command("reservations", option, pk, "--format", "json")
    assert (ended.code, json.loads(ended.out)) == (0, {"id": pk, "state": end})


@pytest.mark.parametrize("option", ["--spend", "--release"])
@pytest.mark.parametrize("pk", [0, 10**6, 2**70])
def test_a_reservation_that_does_not_exist_is_named(option: str, pk: int) -> None:
    before = stored()
    ended = run_command("reservations", f"{option}={pk}")
    assert (ended.code, ended.out) == (1, "")
    assert f"no reservation {pk}" in ended.err
    assert stored() == before


@pytest.mark.parametrize("option", ["--spend", "--release"])
def test_a_lapsed_reservation_can_t_be_ended(option: str) -> None:
    pk = Reservation.objects.get(account__miner="hot-2").pk
    with time_machine.travel(NOW + dt.timedelta(hours=1), tick=False):
        ended = run_command("reservations", option, pk)
        assert (ended.code, ended.out) == (1, "")
        assert f"Reservation {pk} expired" in ended.err
        found = free(240)
    assert next(iter(found.items())) == ("hot-2", 240.0)


def test_a_reservation_can_t_be_both_spent_and_released() -> None:
    before = stored()
    ended = run_command("reservations", "--spend=1", "--release=1")
    assert ended.code != 0
    assert "--spend" in ended.err
    assert stored() == before
