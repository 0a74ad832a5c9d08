"""How routing stands: what is measured, and against which limits."""

from __future__ import annotations

import datetime as dt

import pytest
from django.db import connection
from django.utils import timezone
from pytest_django import Settings

from allowance.models import Block, LedgerCheck, ManifestSync
from allowance.plumbing.buckets import UtcDay, UtcHour
from routing.models import DecisionRecord
from routing.pages.status import outcomes_by_hour
from routing.watch.findings import Level, amount
from routing.watch.measures import FEW, MEASURES
from routing.watch.status import status
from tests.clock import SECOND
from tests.integration.hour import NEVER, NOW, VALUES, by_name, decide, find
from tests.queries import postgresql, queries

pytestmark = pytest.mark.django_db

NOTHING = (
    *("live_reservations", "failures_in_a_row", "unreadable_blocks", "discarded_blocks", "manifests_held_back"),
    *("unknown_collateral", "shared_collateral"),
)
"""The measures that are 0 where there is nothing."""


def test_every_measure_is_there_once_and_the_scene_tests_them_all() -> None:
    names = [finding.name for finding in status(NOW).findings]
    assert sorted(names) == sorted(VALUES) == sorted(MEASURES)


@pytest.mark.usefixtures("hour")
def test_what_is_measured() -> None:
    assert {name: finding.value for name, finding in by_name(status(NOW)).items()} == pytest.approx(VALUES)


@pytest.mark.usefixtures("hour")
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


@pytest.mark.usefixtures("hour")
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
    assert ("ahead of the site's clock" in finding.sentence) == (age < 0)


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
    known = {name: finding.value for name, finding in found.items() if finding.value is not None}
    assert known == dict.fromkeys(NOTHING, 0)
    assert {name: finding.level for name, finding in found.items() if finding.level is not Level.OK} == {
        "block_age": "critical",
        "manifest_age": "critical",
        "ledger_differences": "unknown",
        "ledger_check_age": "unknown",
        "collateral_filter": "info",
        "follower_heartbeat": "info",
    }
    assert found["refusals"].sentence == found["lock_waits"].sentence == "There were no picks in the last hour."
    assert found["expired_reservations"].sentence == "There were no reservations that ended in the last hour."
    assert found["most_jobs"].sentence == "No jobs were routed in the last hour, too few for a percentage."
    assert found["ledger_differences"].sentence.startswith(
        "The ledger has never been checked. Run manage.py check_ledger"
    )


def test_a_chain_without_manifests_is_critical() -> None:
    Block.objects.create(number=7, timestamp=NOW, stake_share=0.5)
    assert (find("block_age").level, find("manifest_age").level) == ("ok", "critical")


def test_a_few_refusals_at_a_quiet_hour_are_no_alarm() -> None:
    decide(FEW - 1, "ALL_MINERS_BUSY", waited_us=10)
    names = ("refusals", "all_miners_busy", "lock_waits")
    assert [(find(name).level, find(name).value) for name in names] == [("ok", None)] * 3
    assert find("refusals").sentence == "19 of 19 picks in the last hour were refused, too few for a percentage."
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


@pytest.mark.usefixtures("hour")
def test_the_worst_is_told_first(settings: Settings) -> None:
    LedgerCheck.objects.all().delete()
    settings.ROUTING_STATUS_LIMITS = NEVER | {"expired_reservations": [0, 100], "most_jobs": [0, 0]}
    found = status(NOW)
    assert [finding.level for finding in found.findings][:5] == ["critical", "warning", "unknown", "unknown", "ok"]
    assert (found.level, found.sentence) == (
        "critical",
        "4 of 32 findings need attention: most jobs, expired reservations, ledger differences, ledger check age.",
    )


@pytest.mark.usefixtures("hour")
def test_it_takes_fifteen_queries() -> None:
    assert len(queries(lambda: status(NOW))) == 15


@postgresql
@pytest.mark.usefixtures("hour")
def test_nothing_is_read_whole() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
    plans = []
    for sql in queries(lambda: (status(NOW), outcomes_by_hour(NOW))):
        with connection.cursor() as cursor:
            cursor.execute("EXPLAIN " + sql)
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
