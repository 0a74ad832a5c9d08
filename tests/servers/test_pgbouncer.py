"""Behind a PgBouncer in transaction mode each transaction has another connection of the server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from asgiref.sync import async_to_sync
from django.core.management import get_commands
from django.db import connection
from django.test import Client
from django.urls import reverse

from allowance import allowance
from allowance.models import Block
from routing import routing
from routing.pages import MENU
from routing.types import MinerIncidentType
from tests.factories import EXECUTOR_CLASS, job_request, run_command
from tests.ledgers import CLASS, fill_ledger
from tests.servers import pgbouncer

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="a pooler for PostgreSQL"),
]

ARGUMENTS: dict[str, list[object]] = {
    "dry_run_routing": ["--executor-class", CLASS, "--seconds", 30],
    "prune": ["--dry-run"],
    "issue_token": ["anna", "--scope", "jobs"],
    "revoke_token": ["anna"],
    "explain_job": [job_request().uuid],
    "replay_journal": [os.devnull],
}
COMMANDS = sorted(name for name, app in get_commands().items() if app in {"allowance", "receipts", "routing"})


@pytest.fixture(autouse=True)
def behind_pgbouncer() -> Iterator[None]:
    program = pgbouncer.find()
    if program is None:
        assert not os.environ.get("CI"), pgbouncer.MISSING
        pytest.skip(pgbouncer.MISSING)
    with pgbouncer.bounced(program):
        fill_ledger("anna", executors=20)
        yield


def test_control_a_cursor_does_not_outlive_its_transaction() -> None:
    raw: Any = connection.connection
    cursor = raw.cursor("mine", withhold=True)
    with pytest.raises(psycopg.Error, match='portal "mine" does not exist'):
        cursor.execute("SELECT generate_series(1, 9)")
    connection.close()
    cursor.close()


def test_jobs_are_picked_and_settled() -> None:
    picks = [routing().pick(job_request()) for _ in range(4)]
    picks += [async_to_sync(routing().pick_miner_for_job_request)(job_request()) for _ in range(4)]
    for route in picks:
        assert route.allowance_reservation_id is not None
        allowance().spend_allowance(route.allowance_reservation_id)
    routing().report_incident(MinerIncidentType.MINER_JOB_FAILED, "anna", job_request().uuid, EXECUTOR_CLASS)
    assert run_command("check_ledger").code == 0
    for _ in range(2 * pgbouncer.POOL):  # nothing that was set for a transaction stays
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('lock_timeout'), current_setting('default_transaction_isolation')")
            assert cursor.fetchone() == ("0", "read committed")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_needs_no_connection_for_longer_than_a_transaction(name: str) -> None:
    """Whatever it answers, it is no error of the database."""
    for _ in range(5):
        routing().pick(job_request())
    for _ in range(2):
        finished = run_command(name, *ARGUMENTS.get(name, []))
        assert "does not exist" not in finished.out + finished.err
    assert Block.objects.exists()


def test_the_pages_need_no_connection_for_longer_than_a_transaction(admin_client: Client) -> None:
    routing().report_incident(MinerIncidentType.MINER_JOB_FAILED, "anna", job_request().uuid, EXECUTOR_CLASS)
    routing().pick(job_request())
    for address in [reverse(f"admin:{page.name}") for page in MENU] + [reverse("admin:routing_minerincident_csv")]:
        response = admin_client.get(address)
        assert response.status_code == 200
        assert b"".join(iter(response))
