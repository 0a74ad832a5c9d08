"""The ledger that most tests begin with: a copy of it is what recording gives."""

from __future__ import annotations

import pytest

from allowance.models import Account
from allowance.oversight.audit import check_ledger
from tests import ledgers
from tests.clock import noon
from tests.factories import empty_tables
from tests.ledgers import Rows, fill_ledger

pytestmark = [noon, pytest.mark.django_db]


def without_versions(found: Rows) -> Rows:
    return {table: [{n: v for n, v in row.items() if n != "version"} for row in found[table]] for table in found}


def test_a_copied_ledger_is_a_recorded_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "recorded", {})
    made = []
    for _ in range(2):
        fill_ledger("anna", "bert", blocks=3)
        made.append(ledgers.rows())
        assert list(check_ledger()) == []
        empty_tables()
    assert len(ledgers.recorded) == 1
    first, second = map(without_versions, made)
    for table, found in first.items():
        assert [{**row, "neurons_id": 0} for row in found] == [{**row, "neurons_id": 0} for row in second[table]], table
    old, new = ({row["version"] for row in found[Account]} for found in made)
    assert not old & new


def test_a_ledger_is_recorded_beside_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    fill_ledger("anna")
    monkeypatch.setattr(ledgers, "copy", lambda *_: pytest.fail("This would be a second chain."))
    fill_ledger("anna")
