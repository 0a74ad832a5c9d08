"""`manage.py prune`: what it counts, deletes and says, in which statements, and what it does beside others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from allowance.models import Reservation
from allowance.oversight.audit import check_ledger
from routing.models import RoutedJob
from tests.clock import DAY, NOW, noon
from tests.factories import run_command, stored
from tests.integration.past import find, record_history
from tests.integration.test_export import forget, replay
from tests.integration.test_locks import Holder, needs_row_locks
from tests.ledgers import CLASS
from tests.rows import decided

pytestmark = [
    noon,
    pytest.mark.usefixtures("ledger_clean_at_the_end", "nothing_kept"),
]


def said(*arguments: object) -> dict[str, Any]:
    """Return what the command says for programs, with its kinds as {name: rows}."""
    ended = run_command("prune", "--format", "json", *arguments)
    report: dict[str, Any] = json.loads(ended.out)
    assert ended.code == bool(report["locked"])
    return {**report, "kinds": {kind["kind"]: kind["rows"] for kind in report["kinds"]}}


def test_a_dry_run_counts_what_a_prune_deletes_and_deletes_nothing(settings: Settings) -> None:
    record_history(settings)
    before = stored()
    counted = said("--dry-run")
    assert stored() == before
    assert all(counted["kinds"].values())
    done = said("--batch", 3)
    assert done == {**counted, "dry_run": False}
    assert not any(said()["kinds"].values())


def test_a_prune_of_an_empty_database_finds_nothing() -> None:
    assert not any(said("--dry-run")["kinds"].values())
    assert not any(said()["kinds"].values())


def test_people_get_a_table(settings: Settings) -> None:
    record_history(settings)
    for arguments, deleted, noted in ((["--dry-run"], "to delete", "1 to mark"), ([], "deleted", "1 marked")):
        ended = run_command("prune", *arguments)
        head, *rows = (re.split(r"  +", line.strip()) for line in ended.out.splitlines())
        assert (ended.code, head) == (0, ["kind", "kept days", deleted])
        assert ["decisions", "1.5", "6"] in rows
        assert ["candidates of decisions", "0", "1"] in rows
        assert ["expired reservations", "–", noted] in rows
        assert len(rows) == 15


LINE = r"(\w+) +\x1b.*?(\d+/\d+)"
"""A bar's name and its last count."""


def test_a_terminal_sees_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings: Settings
) -> None:
    record_history(settings)
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes any stream for a terminal then
    monkeypatch.setenv("COLUMNS", "100")
    assert run_command("prune", "--batch", 1).code == 0
    assert {"blocks": "22/22", "reservations": "15/15"}.items() <= dict(
        re.findall(LINE, capsys.readouterr().err)
    ).items()


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_of_nothing_is_refused(batch: int) -> None:
    ended = run_command("prune", f"--batch={batch}")
    assert ended.code == 2
    assert str(batch) in ended.err


def test_each_batch_is_a_transaction_of_its_own_and_deletes_no_more_than_it_may() -> None:
    for days in range(10):
        decided(at=NOW - DAY - days * DAY)
    with CaptureQueriesContext(connection) as captured:
        assert said("--batch", 4)["kinds"]["decisions"] == 10
    statements = [query["sql"] for query in captured]
    transactions = [line.split() for line in "\n".join(statements).split("BEGIN")[1:]]
    deletes = [words for words in transactions if "DELETE" in words]
    assert [words.count("DELETE") for words in deletes] == [1, 1, 1]
    assert all("COMMIT" in words for words in transactions)


def test_a_pruned_history_replayed_elsewhere_gives_the_same_answers(tmp_path: Path, settings: Settings) -> None:
    record_history(settings)
    assert all(said()["kinds"].values())
    lines = run_command("export_journal").out.splitlines()

    def answers() -> list[Any]:
        asked = ["--executor-class", CLASS, "--seconds", 5, "--format", "json"]
        dry_run = json.loads(run_command("dry_run_routing", *asked).out)
        return [
            find(),
            {**dry_run, "uuid": None},
            list(Reservation.objects.order_by("pk").values_list("pk", "state")),
        ]

    before = answers()
    RoutedJob.objects.all().delete()
    forget()
    assert replay(tmp_path, *lines).code == 0
    assert answers() == before
    assert list(check_ledger()) == []
    assert run_command("export_journal").out.splitlines() == lines


def test_a_history_replayed_over_what_was_pruned_of_it_does_no_harm(tmp_path: Path, settings: Settings) -> None:
    record_history(settings)
    lines = run_command("export_journal").out.splitlines()
    counted = said()["kinds"]
    before = find()
    assert replay(tmp_path, *lines).code == 0
    assert list(check_ledger()) == []
    assert find() == before
    for kind in ("incidents", "reservations", "blocks"):
        assert said("--dry-run")["kinds"][kind] == counted[kind]


@needs_row_locks
@pytest.mark.parametrize(
    ("miner", "passed_over", "kind"), [("bert", f"account bert {CLASS}", "reservations"), (None, "blocks", "blocks")]
)
def test_what_others_keep_locked_is_passed_over_and_told(
    miner: str | None, passed_over: str, kind: str, settings: Settings
) -> None:
    settings.ALLOWANCE_LOCK_TIMEOUT = 0.02
    record_history(settings)
    counted = said("--dry-run")["kinds"]
    with Holder(miner):
        first = said()
        told = run_command("prune")
    assert first["locked"] == [passed_over]
    assert told.code == 1
    assert f"kept rows locked: {passed_over}." in told.out
    rest = said()
    assert 0 < rest["kinds"][kind] <= counted[kind]
    assert {name: n + rest["kinds"][name] for name, n in first["kinds"].items()} == counted
