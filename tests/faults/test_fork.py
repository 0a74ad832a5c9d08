"""A process that has picked forks: both pick on, each with a pool and connections of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection

from tests.factories import fill_ledger
from tests.faults.processes import ADDRESS
from tests.programs import Program

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger_clean_at_the_end")]


@pytest.fixture
def program() -> Iterator[Program]:
    fill_ledger("anna", executors=20)
    program = Program("tests.faults.forking", json.dumps({key: connection.settings_dict[key] for key in ADDRESS}))
    yield program
    program.end()


def test_parent_and_child_pick_on_after_a_fork(program: Program) -> None:
    first: dict[str, Any] = program.hear()
    child, status, parent = program.hear(), program.hear(), program.hear()
    assert status == 0
    assert len({*first["reservations"], *child["reservations"], *parent["reservations"]}) == 6
    assert parent["sessions"] == first["sessions"]
    if connection.vendor == "postgresql":
        assert not set(child["sessions"]) & set(parent["sessions"])
