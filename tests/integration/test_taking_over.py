"""docs/taking-over.md: its commands are run, and its tables are what they do."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import sqlite3
import sys
from pathlib import Path

import pytest
from constance import config
from django.apps import apps
from django.contrib.auth.models import Permission, User
from django.utils import timezone

from allowance.follow.lead import Lead
from allowance.follow.reports import report_good
from allowance.models import ChainLock
from routing import routing
from routing.access import tokens
from routing.models import AccessToken, Rejection, UsedSignature
from routing.types import MinerIncidentType
from tests.factories import EXECUTOR_CLASS, job_request
from tests.jobs import routed
from tests.ledgers import CLASS, fill_ledger
from tests.programs import ROOT, Program, database_url

PAGE = (ROOT / "docs" / "taking-over.md").read_text()
COMMANDS = re.findall(r"^\$ (.*)$", PAGE, re.MULTILINE)


def listed(heading: str) -> set[str]:
    """Return the models that the first column of a table names."""
    table = PAGE.partition(f"| {heading} |")[2].partition("\n\n")[0]
    return {name for cell in re.findall(r"^\|([^|]*)\|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)}


CARRIED, LOST = listed("Contained"), listed("Not contained")


@pytest.fixture
def past(ledger_clean_at_the_end: None) -> None:
    """A router that has worked: jobs over sockets, spent and held, an incident, a token, users and a setting."""
    fill_ledger("anna", "bert")
    first = routed(job_request())
    routing().pick(job_request())
    routing().report_incident(MinerIncidentType.MINER_JOB_FAILED, "anna", job_request().uuid, EXECUTOR_CLASS)
    Rejection.objects.create(
        miner="anna", job_uuid=first.uuid, executor_class=CLASS, timestamp=timezone.now(), excused=False
    )
    UsedSignature.objects.create(signatory="anna", signed_at_ns=1, job_uuid=first.uuid)
    tokens.issue("a program", [tokens.Scope.JOBS], dt.timedelta(days=1))
    lead = Lead(genesis="0x00", netuid=12, hotkey="validator", source="scripted")
    lead.take()
    lead.release()
    report_good("blocks", "scripted", {})
    boss = User.objects.create_user("boss")
    boss.user_permissions.add(Permission.objects.get(codename="view_jobstartedreceipt"))
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
        "DEBUG": "1",
        "DATABASE_URL": "sqlite:////nowhere",
        "OLD": database_url(),
        "NEW": f"sqlite:///{new}",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for command in COMMANDS:
        ended = Program("/usr/bin/env", "bash", "-c", command, cwd=tmp_path, environment=environment).finish()
        assert ended.code == 0, command + ended.out + ended.err
    here = {model._meta.db_table: model._default_manager.count() for model in apps.get_models()}
    with sqlite3.connect(new) as database:
        there = {table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in here}  # noqa: S608
        hours = database.execute("SELECT value FROM constance_constance WHERE key LIKE '%HOURS'").fetchone()[0]
    for model in apps.get_models():
        table = model._meta.db_table
        if model.__name__ in CARRIED or model in (User, AccessToken, ChainLock):
            assert there[table] == here[table], table
        elif model.__name__ in LOST - {"LedgerCheck"}:
            assert (bool(here[table]), there[table]) == (True, 0), table
    assert json.loads(hours)["__value__"] == 5.0
