"""How routing stands, as monitors hear it."""

from __future__ import annotations

import json
import re
from io import StringIO

import pytest
from django.db import OperationalError
from pytest_django import Settings
from rich.console import Console

from allowance.models import LedgerCheck
from routing.management.commands import routing_status
from routing.watch.measures import FEW
from routing.watch.status import status
from tests.factories import raising, run_command
from tests.integration.hour import NEVER, NOW, decide, find

pytestmark = [pytest.mark.django_db, pytest.mark.time_machine(NOW, tick=False)]

LIMITS_OF_CODES: dict[int, tuple[bool, dict[str, list[float]]]] = {
    0: (True, NEVER),
    1: (True, NEVER | {"expired_reservations": [0, 100]}),
    2: (True, NEVER | {"expired_reservations": [0, 100], "refusals": [0, 1]}),
    3: (False, NEVER),
}


@pytest.mark.usefixtures("hour")
@pytest.mark.parametrize(("code", "checked", "limits"), [(code, *what) for code, what in LIMITS_OF_CODES.items()])
@pytest.mark.parametrize("form", ["text", "json"])
def test_the_command_ends_as_monitors_expect(
    form: str, code: int, checked: bool, limits: dict[str, list[float]], settings: Settings
) -> None:
    settings.ROUTING_STATUS_LIMITS = limits
    if not checked:
        LedgerCheck.objects.all().delete()
    level = ["ok", "warning", "critical", "unknown"][code]
    ended = run_command("routing_status", "--format", form)
    assert (ended.code, ended.err) == (code, "")
    if form == "json":
        assert json.loads(ended.out)["level"] == level
    else:
        assert ended.out.startswith(f"{level.upper()}: ")


@pytest.mark.usefixtures("hour")
def test_the_command_says_all_in_text_plain_and_each_finding_on_a_line() -> None:
    out = run_command("routing_status").out
    first, *lines = out.splitlines()
    found = status(NOW)
    assert first == f"CRITICAL: {found.sentence}"
    assert "\x1b" not in out
    for finding in found.findings:
        (line,) = [line for line in lines if re.match(rf"{finding.level} +{finding.name} ", line)]
        assert line.rstrip().endswith(finding.sentence)
        assert re.search(r" {2,}".join(map(re.escape, finding.amounts)), line)
    assert sum(bool(re.match(r"hot-1 +15 +62\.5 +450 +33\.3$", line)) for line in lines) == 2


def test_the_command_is_coloured_in_a_terminal_and_takes_no_markup_from_the_database() -> None:
    decide(FEW, miner="[bold]hot[/bold]")
    terminal = StringIO()
    routing_status.show(status(NOW), Console(file=terminal, force_terminal=True, width=200, color_system="standard"))
    assert "\x1b[31mcritical" in terminal.getvalue()
    assert "[bold]hot[/bold]" in terminal.getvalue()


@pytest.mark.usefixtures("hour")
def test_the_command_says_all_in_json() -> None:
    told = json.loads(run_command("routing_status", "--format", "json").out)
    found = status(NOW)
    assert told.keys() == {"level", "at", "findings", "most_jobs", "most_seconds"}
    assert (told["level"], told["at"]) == ("critical", "2026-01-02T12:30:00+00:00")
    assert [finding["name"] for finding in told["findings"]] == [finding.name for finding in found.findings]
    refusals = next(finding for finding in told["findings"] if finding["name"] == "refusals")
    assert refusals == {
        "name": "refusals",
        "value": 40,
        "unit": "%",
        "level": "warning",
        "limits": {"warning": 25, "critical": 50},
        "sentence": find("refusals").sentence,
    }
    assert told["most_jobs"][0] == {
        "miner": "hot-1",
        "jobs": 15,
        "jobs_share": 62.5,
        "seconds": 450,
        "seconds_share": pytest.approx(33.3, abs=0.1),
    }


def test_the_command_says_so_if_limits_are_bad_or_the_database_is(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ROUTING_STATUS_LIMITS = {"nothing": [1, 2]}
    ended = run_command("routing_status")
    assert (ended.code, ended.out) == (3, "")
    assert ended.err.startswith(
        "UNKNOWN: ROUTING_STATUS_LIMITS: unknown measure 'nothing'. The measures are: block_age, "
    )

    monkeypatch.setattr(routing_status, "status", raising(OperationalError("connection refused")))
    ended = run_command("routing_status")
    assert (ended.code, ended.err) == (2, "CRITICAL: the database can't be read: connection refused")
