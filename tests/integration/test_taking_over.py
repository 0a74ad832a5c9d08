"""docs/taking-over.md: its commands are run, and its tables are what they do."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from constance import config
from django.apps import apps
from django.contrib.auth.models import User

from routing import routing
from routing.access import tokens
from routing.models import AccessToken, Rejection, UsedSignature
from tests.clock import DAY
from tests.factories import CLASS, fill_ledger, job_request
from tests.jobs import routed
from tests.rows import report
from tests.servers.server import database_url
from tests.visitors import member

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "taking-over.md").read_text()
COMMANDS = re.findall(r"^\$ (.*)$", PAGE, re.MULTILINE)


def listed(heading: str) -> set[str]:
    """Return the models that the first column of a table names."""
    table = PAGE.partition(f"| {heading} |")[2].partition("\n\n")[0]
    return {name for cell in re.findall(r"^\|([^|]*)\|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)}


CARRIED, LOST = listed("Carried"), listed("Not carried")


@pytest.fixture
def past(ledger_clean_at_the_end: None) -> None:
    """A router that has worked: jobs over sockets, spent and held, an incident, a token, users and a setting."""
    fill_ledger("anna", "bert")
    first = routed(job_request())
    routing().pick(job_request())
    told = report()
    of_first = {"miner": "anna", "job_uuid": first.uuid, "executor_class": CLASS}
    Rejection.objects.create(**of_first, timestamp=told.timestamp, excused=False)
    UsedSignature.objects.create(signatory="anna", signed_at_ns=1, job_uuid=first.uuid)
    tokens.issue("a program", [tokens.Scope.JOBS], DAY)
    member("router_receipts.view_jobstartedreceipt")
    config.DYNAMIC_ROUTING_RELIABILITY_WINDOW_HOURS = 5.0


def test_the_page_lists_every_table() -> None:
    ours = {
        model.__name__
        for app in ("allowance", "router_receipts", "routing")
        for model in apps.get_app_config(app).get_models()
    }
    assert ours == CARRIED | LOST
    assert not CARRIED & LOST


@pytest.mark.usefixtures("past")
def test_its_commands_move_a_history_to_another_database(tmp_path: Path) -> None:
    (tmp_path / "manage.py").symlink_to(ROOT / "manage.py")
    new = tmp_path / "new.sqlite3"
    environment = {
        **os.environ,
        "DEBUG": "1",
        "OLD": database_url(),
        "NEW": f"sqlite:///{new}",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for command in COMMANDS:
        ended = subprocess.run(
            ["/usr/bin/env", "bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, command + ended.stdout + ended.stderr
    here = {model._meta.db_table: model._default_manager.count() for model in apps.get_models()}
    with sqlite3.connect(new) as database:
        there = {table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in here}  # noqa: S608
        hours = database.execute("SELECT value FROM constance_constance WHERE key LIKE '%HOURS'").fetchone()[0]
    for model in apps.get_models():
        table = model._meta.db_table
        if model.__name__ in CARRIED or model in (User, AccessToken):
            assert there[table] == here[table], table
        elif model.__name__ in LOST - {"LedgerCheck"}:
            assert (bool(here[table]), there[table]) == (True, 0), table
    assert json.loads(hours)["__value__"] == 5.0
