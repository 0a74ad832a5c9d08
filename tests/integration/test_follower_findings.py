"""What is said of the chain follower: where it runs, where it never ran, and where its sources fail."""

from __future__ import annotations

import datetime as dt

import pytest
from pytest_django import Settings

from allowance.models import SourceReport
from routing.watch import follower_measures
from routing.watch.followed import SOURCES
from routing.watch.measures import MEASURES
from routing.watch.status import status
from tests.clock import DAY, HOUR, MINUTE, SECOND
from tests.factories import run_command
from tests.follower import ERROR, SHARED, follow, follow_all, report
from tests.integration.hour import NOW, by_name, find
from tests.rows import mint

pytestmark = [pytest.mark.django_db, pytest.mark.time_machine(NOW, tick=False)]

NAMES = [name for name, each in MEASURES.items() if each.take.__module__ == follower_measures.__name__]
"""The measures of the follower."""


def levels() -> dict[str, str]:
    """Return the levels of the measures of the follower that are not ok."""
    found = by_name(status(NOW))
    return {name: found[name].level.value for name in NAMES if found[name].level.value != "ok"}


def test_a_site_that_feeds_the_ledger_itself_is_only_told_that_no_follower_runs() -> None:
    assert levels() == {"follower_heartbeat": "info"}
    assert find("follower_heartbeat").sentence == (
        "No chain follower has ever run here. Start manage.py follow_chain and read its log, "
        "unless another program records the chain."
    )
    assert find("source_receipts").sentence == "No chain follower reads the receipts."


def test_all_is_well_where_a_follower_works() -> None:
    follow(NOW)
    for name in SOURCES:
        report(name, NOW)
    assert levels() == {}
    assert find("source_blocks").sentence == "The source of the blocks (subtensor) gave its last good answer 30 s ago."
    assert find("unreadable_blocks").sentence == "The chain follower reports no such block."


@pytest.mark.parametrize(("age", "level"), [(60, "ok"), (61, "warning"), (300, "warning"), (301, "critical")])
def test_a_follower_without_a_heartbeat_is_told_with_its_process(age: int, level: str) -> None:
    follow(NOW, seen_at=NOW - age * SECOND)
    finding = find("follower_heartbeat")
    assert (finding.level.value, finding.value) == (level, age)
    assert "The chain follower (host-a, process 4711) was last seen" in finding.sentence
    out = run_command("routing_status").out
    assert finding.sentence in out


def test_what_the_follower_writes_while_it_is_read_is_not_from_the_future() -> None:
    follow(NOW, seen_at=NOW + SECOND)
    report("blocks", NOW, good_at=NOW + SECOND)
    assert levels() == {}
    assert [find(name).value for name in ("follower_heartbeat", "source_blocks")] == [0, 0]


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_that_fails_is_told_by_the_age_of_its_last_good_answer_and_with_its_error(
    name: str, settings: Settings
) -> None:
    follow(NOW)
    what = f"The source of the {name} (subtensor)"
    report(name, NOW, good_at=NOW - 2 * MINUTE, failed_at=NOW - MINUTE, failures=7, error=ERROR)
    settings.ROUTING_STATUS_LIMITS = {f"source_{name}": [119, 120]}
    finding = find(f"source_{name}")
    assert (finding.level.value, finding.value) == ("warning", 120)
    assert finding.sentence == (
        f"{what} gave its last good answer 2 min ago. Failures since then: 7. The newest: {ERROR} "
        f"{MEASURES[finding.name].advice}"
    )
    report(name, NOW, good_at=None, failed_at=NOW - 3 * HOUR, failures=7, error=ERROR)
    finding = find(f"source_{name}")
    assert (finding.level.value, finding.value) == ("critical", 3 * 3600)
    assert finding.sentence.startswith(f"{what} has given no good answer and first failed 3 h ago. Failures")
    report(name, NOW, good_at=None)
    finding = find(f"source_{name}")
    assert (finding.level.value, finding.value) == ("ok", None)


def test_the_sources_may_be_silent_as_long_as_they_are_asked_seldom() -> None:
    follow(NOW)
    after: dict[str, list[str]] = {}
    for name in SOURCES:
        for age in (MINUTE, 6 * MINUTE, 16 * MINUTE, HOUR, DAY):
            report(name, NOW, good_at=NOW - age)
            after.setdefault(name, []).append(find(f"source_{name}").level.value)
    assert after == {
        "blocks": ["ok", "critical", "critical", "critical", "critical"],
        "manifests": ["ok", "ok", "warning", "warning", "critical"],
        "collateral": ["ok", "ok", "ok", "warning", "critical"],
        "receipts": ["ok", "warning", "warning", "critical", "critical"],
        "settings": ["ok", "ok", "warning", "warning", "critical"],
    }


def test_blocks_that_cannot_be_read_are_told_with_the_runtime() -> None:
    follow(NOW)
    unreadable = [[1005, 461, "no type 7"], [1004, None, "too short."], [1003, 461, "x"], [1002, 461, "y"]]
    report("blocks", NOW, unreadable=unreadable)
    finding = find("unreadable_blocks")
    assert (finding.level.value, finding.value) == ("warning", 4)
    assert finding.sentence == (
        "Block 1005 can't be decoded (runtime 461): no type 7. Block 1004 can't be decoded (runtime unknown): too "
        "short. Others like it: 2 or more. Update the libraries of the extra `live`."
    )
    assert find("discarded_blocks").level.value == "ok"


def test_only_discarded_blocks_after_the_first_recorded_one_count() -> None:
    follow(NOW)
    mint(1000)
    mint(1090)
    before = "{} from before the ledger began can't be read any more. {} would have earned nothing."
    gaps = [[70, 999], [1001, 1080], [1085, 1085]]
    for discarded, value, sentence in (
        (0, 0, "The chain follower reports no such block."),
        (1, 0, before.format("1 block", "It")),
        (930, 0, before.format("930 blocks", "They")),
        (
            1000,
            70,
            before.format("930 blocks", "They")
            + " Missing blocks that the node has discarded: 70. Set SUBTENSOR_ARCHIVE_URL.",
        ),
        (
            1010,
            80,
            before.format("930 blocks", "They")
            + " Missing blocks that the node has discarded: 80. Set SUBTENSOR_ARCHIVE_URL.",
        ),
    ):
        report("blocks", NOW, gaps=gaps, discarded=discarded)
        finding = find("discarded_blocks")
        assert (finding.value, finding.sentence) == (value, sentence)
        assert finding.level.value == ("critical" if value > 72 else "warning" if value else "ok")


@pytest.mark.parametrize(("failures", "level"), [(0, "ok"), (2, "ok"), (3, "warning"), (1000, "warning")])
def test_a_source_that_fails_again_and_again_is_told_while_its_last_answer_is_young(failures: int, level: str) -> None:
    follow(NOW)
    report("receipts", NOW, failures=1, error="no")
    report("blocks", NOW, failures=failures, error=ERROR)
    finding = find("failures_in_a_row")
    assert (finding.level.value, finding.value) == (level, failures or 1)
    if level != "ok":
        assert finding.sentence == (
            f"Failures of the source of the blocks in a row: {failures}. The newest: {ERROR} "
            "Check what the error names, and the follower's log."
        )


def test_a_brake_unknown_collateral_and_shared_addresses_are_told() -> None:
    follow_all(NOW)
    mint(1000)
    assert levels() == {
        "failures_in_a_row": "warning",
        "unreadable_blocks": "warning",
        "discarded_blocks": "warning",
        "manifests_held_back": "warning",
        "unknown_collateral": "warning",
        "shared_collateral": "info",
    }
    assert find("manifests_held_back").sentence == (
        "2 of 3 miners that had executors did not answer. This sync is not recorded. "
        "Until a sync is recorded, the manifests before it count."
    )
    assert find("unknown_collateral").sentence.startswith(
        "The collateral of 2 miners is unknown. That of hot-3 became unknown 2 h ago."
    )
    assert find("shared_collateral").sentence.startswith(f"EVM addresses with several hotkeys: {SHARED} (2).")
    report("collateral", NOW, shared={f"0x{number}": ["a", "b"] for number in range(5)})
    assert find("shared_collateral").sentence.startswith(
        "EVM addresses with several hotkeys: 0x0 (2), 0x1 (2) and 3 more."
    )


@pytest.mark.parametrize("detail", [{}, {"calls": 7}, {"unreadable": [["?"]], "unknown": 3, "miners": []}, []])
def test_a_report_that_another_version_wrote_is_an_empty_one(detail: object) -> None:
    follow(NOW)
    for name in SOURCES:
        report(name, NOW)
    SourceReport.objects.update(detail=detail)
    assert levels() == {}


def test_a_follower_that_is_not_there_any_more_leaves_no_report_behind() -> None:
    """Without its row, no report counts: the row is written first."""
    report("blocks", NOW - dt.timedelta(days=3))
    assert levels() == {"follower_heartbeat": "info"}
