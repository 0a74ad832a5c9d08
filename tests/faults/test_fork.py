"""A process that has picked forks: both pick on, each with a pool and connections of its own."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection

from tests.ledgers import fill_ledger
from tests.programs import Worker

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger_clean_at_the_end")]


def test_parent_and_child_pick_on_after_a_fork() -> None:
    fill_ledger("anna", executors=20)
    said: list[dict[str, Any]] = []
    with Worker("tests.faults.forking", ALLOWANCE_THREADS=1) as router:
        router.tell("fork")
        assert router.answer(said.append) == 0
    first, child, parent = said
    assert len({*first["reservations"], *child["reservations"], *parent["reservations"]}) == 6
    assert parent["sessions"] == first["sessions"]
    if connection.vendor == "postgresql":
        assert not set(child["sessions"]) & set(parent["sessions"])
