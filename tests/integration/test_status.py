"""How routing stands: what is measured, against which limits, as monitors hear it and as the page shows it."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator
from html import unescape
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest
import time_machine
from constance import config
from django.db import OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings
from rich.console import Console

from allowance import allowance
from allowance.models import Account, Block, LedgerCheck, ManifestSync, NeuronList, Reservation, ReservationState
from allowance.plumbing.buckets import UtcDay, UtcHour
from routing.management.commands import routing_status
from routing.models import DecisionRecord
from routing.pages import SEE_STATUS
from routing.pages.status import outcomes_by_hour
from routing.watch.findings import Finding, Level, amount
from routing.watch.measures import FEW, MEASURES
from routing.watch.status import Status, status
from tests.factories import CLASS, FIRST_BLOCK, fill_ledger, run_command
from tests.visitors import clerk

pytestmark = pytest.mark.django_db

NOW = dt.datetime(2026, 1, 2, 12, 30, tzinfo=dt.UTC)
SECOND, MINUTE, HOUR = (dt.timedelta(seconds=n) for n in (1, 60, 3600))
SPENT, RELEASED, EXPIRED = ReservationState.SPENT, ReservationState.RELEASED, ReservationState.EXPIRED

VALUES: dict[str, float] = {
    "block_age": 12,
    "block_gaps": 2,
    "blocks_without_stake": 1,
    "missing_miners": 100,
    "silent_miners": 100,
    "collateral_filter": 0,
    "manifest_age": 240,
    "refusals": 40,
    "not_enough_allowance": 20,
    "not_enough_collateral": 10,
    "all_miners_busy": 7.5,
    "lock_timeout": 2.5,
    "expired_reservations": 15,
    "live_reservations": 50,
    "lock_waits": 10,
    "longest_lock_wait": 1.5,
    "most_jobs": 62.5,
    "most_seconds": 66 + 2 / 3,
    "ledger_differences": 2,
    "ledger_check_age": 3 * 3600,
}
"""What the scene below comes to."""

AXONS = {name: {"address": "10.0.0.1", "ip_version": 4, "port": 9000} for name in ("hot-1", "hot-2")}

NEVER: dict[str, list[float]] = {name: [10**9, 10**9] for name in VALUES}
"""Limits that nothing is above."""


def decide(number: int = 1, outcome: str = "ROUTED", miner: str = "", **fields: Any) -> None:
    """Store so many decisions."""
    what = {"job_uuid": uuid4(), "at": NOW - MINUTE, "executor_class": CLASS, "seconds": 30, "window_hours": 24}
    DecisionRecord.objects.bulk_create(
        DecisionRecord(**{**what, "microseconds": 5000, "outcome": outcome, "miner": miner, **fields})
        for _ in range(number)
    )


def reserve(number: int, state: ReservationState, ended_at: dt.datetime | None, expires_at: dt.datetime) -> None:
    """Store so many reservations."""
    account = Account.objects.get(miner="hot-1")
    what = {"account": account, "blocks": [FIRST_BLOCK], "created_at": NOW - 3 * HOUR, "expires_at": expires_at}
    Reservation.objects.bulk_create(Reservation(**what, state=state, ended_at=ended_at) for _ in range(number))


def check(**fields: Any) -> None:
    """Store that the ledger was checked."""
    what = {"at": NOW - 3 * HOUR, "seconds": 1, "accounts": 2, "reservations": 9, "differences": 3, "left": 2}
    LedgerCheck.objects.create(**{**what, **fields})


@pytest.fixture
def scene() -> None:
    """An hour, with whatever must not count just outside."""
    with time_machine.travel(NOW, tick=False):
        fill_ledger("hot-1", "hot-2")
        allowance().record_manifests(block=FIRST_BLOCK + 1, axons=AXONS, executors={})
    Block.objects.filter(number__in=[FIRST_BLOCK + 3, FIRST_BLOCK + 5]).delete()
    Block.objects.filter(number=FIRST_BLOCK + 7).update(stake_share=0)
    Block.objects.update(neurons=NeuronList.objects.create(digest="none", hotkeys=[]))
    config.DYNAMIC_MINIMUM_COLLATERAL_AMOUNT_WEI = 10**16
    decide(14, miner="hot-1")
    decide(1, miner="hot-1", at=NOW)
    decide(9, miner="hot-2", seconds=100, at=NOW - HOUR + SECOND)
    decide(4, "NOT_ENOUGH_ALLOWANCE")
    decide(4, "NOT_ENOUGH_ALLOWANCE", waited_us=250_000)
    decide(4, "NOT_ENOUGH_COLLATERAL")
    decide(3, "ALL_MINERS_BUSY")
    decide(1, "LOCK_TIMEOUT")
    newest = DecisionRecord.objects.filter(waited_us__gt=0).latest("pk")
    DecisionRecord.objects.filter(pk=newest.pk).update(waited_us=1_500_000)
    for outside in (NOW - HOUR, NOW + SECOND):
        decide(50, "ALL_MINERS_BUSY", at=outside, waited_us=9_000_000)
    decide(50, miner="debug", window_hours=None)
    later = NOW + HOUR
    reserve(15, SPENT, NOW, later)
    reserve(2, RELEASED, NOW - HOUR + SECOND, later)
    reserve(1, EXPIRED, NOW - MINUTE, NOW - MINUTE)
    reserve(1, ReservationState.HELD, None, NOW)
    reserve(1, ReservationState.HELD, None, NOW - HOUR + SECOND)
    reserve(50, ReservationState.HELD, None, NOW + SECOND)
    reserve(50, ReservationState.HELD, None, NOW - HOUR)
    reserve(50, SPENT, NOW - HOUR, later)
    reserve(50, EXPIRED, NOW - HOUR, NOW - HOUR)
    check(at=NOW - 4 * HOUR, left=9)
    check()


def by_name(found: Status) -> dict[str, Finding]:
    return {finding.name: finding for finding in found.findings}


def find(name: str) -> Finding:
    return by_name(status(NOW))[name]


def test_every_measure_is_there_once_and_the_scene_tests_them_all() -> None:
    names = [finding.name for finding in status(NOW).findings]
    assert sorted(names) == sorted(VALUES) == sorted(MEASURES)


@pytest.mark.usefixtures("scene")
def test_what_is_measured() -> None:
    assert {name: finding.value for name, finding in by_name(status(NOW)).items()} == pytest.approx(VALUES)


@pytest.mark.usefixtures("scene")
@pytest.mark.parametrize("name", [name for name, value in VALUES.items() if value])
def test_a_value_above_a_limit_is_told_with_what_to_do_and_at_a_limit_all_is_well(
    name: str, settings: Settings
) -> None:
    value, measure = find(name).value, MEASURES[name]
    assert value is not None
    for warning, critical, level in (
        (value + 1, value + 2, Level.OK),
        (value, value, Level.OK),
        (value * 0.999, value, Level.WARNING),
        (value * 0.998, value * 0.999, Level.CRITICAL),
    ):
        settings.ROUTING_STATUS_LIMITS = {name: [warning, critical]}
        finding = find(name)
        assert (finding.level, finding.limits, finding.value) == (level, (warning, critical), value)
        assert finding.sentence.endswith(measure.advice) == (level is not Level.OK)
        assert finding.unit == measure.unit


@pytest.mark.usefixtures("scene")
def test_limits_that_are_not_set_stay_as_they_are(settings: Settings) -> None:
    settings.ROUTING_STATUS_LIMITS = {"refusals": [1, 2]}
    limits = {name: finding.limits for name, finding in by_name(status(NOW)).items()}
    assert limits == {name: measure.limits() for name, measure in MEASURES.items()} | {"refusals": (1, 2)}


@pytest.mark.parametrize(
    ("age", "level"),
    [
        *((0, "ok"), (60, "ok"), (60.001, "warning"), (120, "warning"), (120.001, "critical")),
        *((-0.001, "critical"), (-1e9, "critical")),
    ],
)
def test_a_block_is_too_old_when_the_router_is_not_ready_any_more(age: float, level: str, settings: Settings) -> None:
    settings.ROUTING_READY_MAX_BLOCK_AGE = 120
    Block.objects.create(number=7, timestamp=NOW - age * SECOND, stake_share=0.5)
    finding = find("block_age")
    assert finding.level.value == level
    assert finding.value == pytest.approx(age)
    assert ("ahead of this host's clock" in finding.sentence) == (age < 0)


def test_waits_are_too_long_by_the_patience_that_picks_have(settings: Settings) -> None:
    settings.ALLOWANCE_LOCK_TIMEOUT = 3.0
    levels = []
    for seconds in (1.5, 1.6, 3.0, 3.1):
        decide(waited_us=round(seconds * 1e6))
        levels.append(find("longest_lock_wait").level)
    assert levels == ["ok", "warning", "warning", "critical"]


def test_manifests_of_a_block_that_is_not_there_are_as_old_as_the_blocks_since() -> None:
    Block.objects.create(number=1000, timestamp=NOW - 5 * SECOND, stake_share=0.5)
    ages = {}
    for block in (980, 1001):
        ManifestSync.objects.create(block=block, digest="", axons={}, executors={})
        ages[block] = find("manifest_age").value
    assert ages == {980: 245, 1001: 0}


def test_without_anything_there_is_no_chain_no_work_and_no_check() -> None:
    found = by_name(status(NOW))
    assert {name: finding.value for name, finding in found.items() if finding.value is not None} == {
        "live_reservations": 0
    }
    assert {name: finding.level for name, finding in found.items() if finding.level is not Level.OK} == {
        "block_age": "critical",
        "manifest_age": "critical",
        "ledger_differences": "unknown",
        "ledger_check_age": "unknown",
        "collateral_filter": "info",
    }
    assert found["refusals"].sentence == found["lock_waits"].sentence == "There were no picks in the last hour."
    assert found["expired_reservations"].sentence == "There were no reservations that ended in the last hour."
    assert found["most_jobs"].sentence == "No jobs were routed in the last hour, too few to tell."
    assert found["ledger_differences"].sentence.startswith("The ledger was never checked. Run manage.py check_ledger")


def test_a_chain_without_manifests_is_critical() -> None:
    Block.objects.create(number=7, timestamp=NOW, stake_share=0.5)
    assert (find("block_age").level, find("manifest_age").level) == ("ok", "critical")


def test_a_few_refusals_at_a_quiet_hour_are_no_alarm() -> None:
    decide(FEW - 1, "ALL_MINERS_BUSY", waited_us=10)
    names = ("refusals", "all_miners_busy", "lock_waits")
    assert [(find(name).level, find(name).value) for name in names] == [("ok", None)] * 3
    assert find("refusals").sentence == "19 of 19 picks in the last hour were refused, too few to tell."
    decide(1, "ALL_MINERS_BUSY", waited_us=10)
    assert [(find(name).level, find(name).value) for name in names] == [("critical", 100)] * 3


def test_a_few_jobs_may_all_go_to_one_miner() -> None:
    decide(FEW - 1, miner="hot-1")
    assert (find("most_jobs").level, find("most_seconds").value) == ("ok", None)
    decide(1, miner="hot-1")
    assert (find("most_jobs").level, find("most_seconds").value) == ("critical", 100)


def test_the_miners_with_most_of_the_work_are_named_by_jobs_and_by_seconds() -> None:
    for place in range(7):
        decide(place + 1, miner=f"hot-{place}", seconds=100 / (place + 1) ** 2)
    found = status(NOW)
    assert [work.miner for work in found.most_jobs] == ["hot-6", "hot-5", "hot-4", "hot-3", "hot-2"]
    assert [work.miner for work in found.most_seconds] == ["hot-0", "hot-1", "hot-2", "hot-3", "hot-4"]
    assert found.most_jobs[0].jobs_share == 25
    assert found.most_seconds[1].seconds == 50


@pytest.mark.usefixtures("scene")
def test_the_worst_is_told_first(settings: Settings) -> None:
    LedgerCheck.objects.all().delete()
    settings.ROUTING_STATUS_LIMITS = NEVER | {"expired_reservations": [0, 100], "most_jobs": [0, 0]}
    found = status(NOW)
    assert [finding.level for finding in found.findings][:5] == ["critical", "warning", "unknown", "unknown", "ok"]
    assert (found.level, found.sentence) == (
        "critical",
        "4 of 20 findings: most jobs, expires, ledger differences, ledger check age.",
    )


@pytest.mark.usefixtures("scene")
def test_it_takes_twelve_queries() -> None:
    with CaptureQueriesContext(connection) as captured:
        status(NOW)
    assert len(captured) == 12


@pytest.mark.skipif(connection.vendor != "postgresql", reason="EXPLAIN of PostgreSQL")
@pytest.mark.usefixtures("scene")
def test_nothing_is_read_whole() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
    with CaptureQueriesContext(connection) as captured:
        status(NOW)
        outcomes_by_hour(NOW)
    plans = []
    for query in captured:
        with connection.cursor() as cursor:
            cursor.execute("EXPLAIN " + query["sql"])
            plans.append("\n".join(line for (line,) in cursor.fetchall()))
    assert not [plan for plan in plans if "Seq Scan" in plan]
    for index, number in (("decision_newest", 2), ("reservation_ended", 1), ("reservation_held", 2)):
        assert sum(index in plan for plan in plans) == number, index


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "s", "0 s"),
        (119, "s", "119 s"),
        (120, "s", "2 min"),
        (7199, "s", "120 min"),
        (7200, "s", "2 h"),
        (200_000, "s", "2.31 d"),
        (12.345, "%", "12.3 %"),
        (100, "%", "100 %"),
        (12345, "", "12,345"),
    ],
)
def test_amounts_are_short(value: float, unit: str, text: str) -> None:
    assert amount(value, unit) == text


@pytest.fixture
def at_noon() -> Iterator[None]:
    with time_machine.travel(NOW, tick=False):
        yield


LIMITS_OF_CODES: dict[int, tuple[bool, dict[str, list[float]]]] = {
    0: (True, NEVER),
    1: (True, NEVER | {"expired_reservations": [0, 100]}),
    2: (True, NEVER | {"expired_reservations": [0, 100], "refusals": [0, 1]}),
    3: (False, NEVER),
}


@pytest.mark.usefixtures("scene", "at_noon")
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


@pytest.mark.usefixtures("scene", "at_noon")
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


@pytest.mark.usefixtures("scene", "at_noon")
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
    assert ended.err.startswith("UNKNOWN: ROUTING_STATUS_LIMITS: 'nothing' is none of block_age, ")

    def fail(_now: dt.datetime) -> Status:
        raise OperationalError("connection refused")

    monkeypatch.setattr(routing_status, "status", fail)
    ended = run_command("routing_status")
    assert (ended.code, ended.err) == (2, "CRITICAL: the database can't be read: connection refused")


def page(client: Client) -> tuple[str, Any]:
    """Return the page as text, and what it was made of."""
    response = client.get(reverse("admin:routing_status"))
    assert response.status_code == 200
    return response.content.decode(), response.context


@pytest.mark.usefixtures("scene", "at_noon")
def test_the_page_shows_what_the_function_says() -> None:
    text, _ = page(clerk(*SEE_STATUS))
    plain, found = unescape(text), status(NOW)
    assert found.sentence in plain
    rows = re.findall(r"<tr><td><strong class=\"level-(\w+)\">(\w+)</strong>.*?</tr>", plain, re.DOTALL)
    assert rows == [(finding.level, finding.level.upper()) for finding in found.findings]
    values = [float(value) for value in re.findall(r'<data value="([^"]+)">', text)]
    assert values == [finding.value for finding in found.findings]
    for finding in found.findings:
        assert f'<td class="says">{finding.sentence}</td>' in plain
        assert all(f">{said}<" in plain for said in finding.amounts)


@pytest.mark.usefixtures("scene", "at_noon")
def test_the_page_charts_a_day_of_decisions_and_the_work_of_an_hour() -> None:
    decide(3, "ALL_MINERS_BUSY", at=NOW.replace(minute=0) - 23 * HOUR)
    decide(5, "ALL_MINERS_BUSY", at=NOW.replace(minute=0) - 23 * HOUR - SECOND)
    decide(2, "SomethingNew", at=NOW)
    _, context = page(clerk(*SEE_STATUS))
    decisions, refusals = context["decisions"], context["refusals"]
    assert decisions.labels == [f"{(13 + hour) % 24:02}:00" for hour in range(24)]
    at_eleven, at_twelve = [0] * 22 + [1, 0], [0] * 23 + [1]
    by_outcome = {
        "routed": (9, 15),
        "fixed route": (0, 50),
        "not enough allowance": (0, 8),
        "not enough collateral": (0, 4),
        "all miners busy": (50, 3),
        "lock timeout": (0, 1),
        "SomethingNew": (0, 2),
    }
    expected = {
        name: [eleven * a + twelve * b for a, b in zip(at_eleven, at_twelve, strict=True)]
        for name, (eleven, twelve) in by_outcome.items()
    }
    expected["all miners busy"][0] = 3
    assert decisions.series == expected
    assert list(decisions.series) == list(by_outcome)
    assert dict(zip(refusals.labels, refusals.series["refusals"], strict=True)) == {
        "not enough allowance": 8,
        "not enough collateral": 4,
        "all miners busy": 56,
        "lock timeout": 1,
        "SomethingNew": 2,
    }
    assert (context["most_jobs"].labels, context["most_jobs"].series) == (["hot-1", "hot-2"], {"jobs": [15, 9]})
    assert (context["most_seconds"].labels, context["most_seconds"].series) == (
        ["hot-2", "hot-1"],
        {"seconds": [900, 450]},
    )


@pytest.mark.usefixtures("at_noon")
def test_the_page_is_there_without_any_data_and_refreshes_by_a_link_only() -> None:
    text, context = page(clerk(*SEE_STATUS))
    assert context["decisions"].is_empty
    assert "Nothing to show." in text
    assert "http-equiv" not in text
    assert f'<a href="{reverse("admin:routing_status")}">Look again</a>' in text


@pytest.mark.usefixtures("at_noon")
def test_a_hotkey_that_is_html_is_shown_as_text_and_leads_to_its_miner() -> None:
    decide(FEW, miner="<b>'hot'</b>")
    text, _ = page(clerk(*SEE_STATUS))
    assert "<b>" not in text
    assert "&lt;b&gt;&#x27;hot&#x27;&lt;/b&gt; got 20 of 20 jobs" in text
    assert re.search(r'<a href="/admin/allowance/miner/[^"<>]+/change/">&lt;b&gt;&#x27;hot', text)


@pytest.mark.usefixtures("scene")
def test_the_page_takes_seventeen_queries() -> None:
    """Those of the function, one for the charts, and four to know who is asking."""
    client = clerk(*SEE_STATUS)
    with CaptureQueriesContext(connection) as captured:
        page(client)
    assert len(captured) == 12 + 1 + 4


@pytest.mark.parametrize("missing", SEE_STATUS)
def test_who_lacks_one_of_the_permissions_sees_nothing(missing: str) -> None:
    client = clerk(*(permission for permission in SEE_STATUS if permission != missing))
    assert client.get(reverse("admin:routing_status")).status_code == 403


def test_bad_limits_are_no_page(settings: Settings) -> None:
    settings.ROUTING_STATUS_LIMITS = {"refusals": [2, 1]}
    response = clerk(*SEE_STATUS).get(reverse("admin:routing_status"))
    assert response.status_code == 500
    assert "ROUTING_STATUS_LIMITS: refusals is [2, 1]" in unescape(response.content.decode())


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/St_Johns"])
def test_times_are_cut_to_hours_and_days_of_utc_whatever_the_zone(zone: str) -> None:
    for at in ("2026-01-01T23:59:59.999999", "2026-01-02T00:00:00", "2026-01-02T10:30:00.5"):
        decide(at=dt.datetime.fromisoformat(at + "+00:00"))
    rows = DecisionRecord.objects.order_by("at").values_list(UtcHour("at"), UtcDay("at"))
    with timezone.override(zone):
        assert list(rows) == [
            (dt.datetime(2026, 1, 1, 23, tzinfo=dt.UTC), dt.datetime(2026, 1, 1, tzinfo=dt.UTC)),
            (dt.datetime(2026, 1, 2, tzinfo=dt.UTC), dt.datetime(2026, 1, 2, tzinfo=dt.UTC)),
            (dt.datetime(2026, 1, 2, 10, tzinfo=dt.UTC), dt.datetime(2026, 1, 2, tzinfo=dt.UTC)),
        ]
