"""The command follow_chain as a process: what it prints, how it ends, and that a second one takes over."""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

import pytest

from allowance.models import Block, Follower, ManifestSync
from allowance.oversight.audit import check_ledger
from tests.programs import ROOT, Program

pytestmark = pytest.mark.django_db(transaction=True)

JOURNAL = ROOT / "tests/conformance/cases/mockchain-100/journal.jsonl.gz"
FAST = {
    "CHAIN_SOURCE": "journal",
    "JOURNAL_FILE": JOURNAL,
    "JOURNAL_SPEED": 60,
    "VALIDATOR_HOTKEY": "validator",
    "FOLLOW_POLL_SECONDS": 0.05,
}
"""The environment of a follower whose chain has a block every 0.2 s."""


def follow(*options: str, **environment: object) -> Program:
    return Program(sys.executable, "manage.py", "follow_chain", *options, environment={**FAST, **environment})


def lines(printed: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in printed.splitlines()]


def test_it_follows_until_it_is_told_to_end() -> None:
    with follow("--format", "json") as follower:
        follower.await_log('"event": "manifests"')
        follower.until(lambda: Block.objects.count() > 10 and Follower.objects.get().head)
        assert follower.stop() == 0
        events = lines(follower.log)
    assert events[0] == {"event": "lead"}
    told = {event["number"] for event in events if event["event"] == "block"}
    assert told == set(Block.objects.values_list("number", flat=True))
    assert ManifestSync.objects.count() == sum(event["event"] == "manifests" for event in events)
    assert (Follower.objects.get().head or 0) >= min(told)
    assert list(check_ledger()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("options", "code"), [((), 0), (("--once",), 130), (("--dry-run",), 130)])
def test_it_ends_while_its_source_hangs(options: tuple[str, ...], code: int, number: signal.Signals) -> None:
    own = {"CHAIN_SOURCE": "tests.chains.Hanging", "COLLATERAL_FROM": "none", "RECEIPTS_FROM_MINERS": 0}
    with follow(*options, MANIFESTS_FROM="tests.chains.Dead", **own) as follower:
        follower.await_log("^asked$")
        assert follower.stop(number) == code


def test_a_second_follower_takes_over_when_the_first_one_is_killed() -> None:
    with follow() as first:
        first.await_log("^block ")
        with follow() as second:
            second.await_log("^standby")
            first.process.send_signal(signal.SIGKILL)
            first.process.wait()
            second.await_log("^lead")
            second.await_log("^block ")
            assert f"process {second.process.pid}" in Follower.objects.get().leader


def test_it_ends_once_a_block_is_recorded() -> None:
    with follow("--format", "json") as first:
        first.await_log('"event": "block"')
        assert first.stop() == 0
    until = max(Block.objects.values_list("number", flat=True)) + 3
    ended = follow("--until", str(until)).finish()
    assert ended.code == 0, ended.err
    assert Block.objects.filter(pk=until).exists()


def test_a_dry_run_prints_and_records_nothing() -> None:
    ended = follow("--dry-run", "--format", "json").finish()
    assert (ended.code, ended.err) == (0, "")
    assert {event["event"] for event in lines(ended.out)} >= {"block", "manifests"}
    assert not Block.objects.exists()


def test_one_run_while_another_follows_is_refused() -> None:
    with follow() as first:
        first.await_log("^lead")
        ended = follow("--once").finish()
    assert ended.code == 2
    assert "Another follower follows the chain" in ended.err


def test_the_ledger_of_another_validator_is_refused() -> None:
    with follow() as first:
        first.await_log("^block ")
    ended = follow(VALIDATOR_HOTKEY="another").finish()
    assert ended.code == 2
    assert "recorded for the validator validator" in ended.err


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"VALIDATOR_HOTKEY": ""}, "needs VALIDATOR_HOTKEY"),
        ({"CHAIN_SOURCE": "tests.chains.Nothing"}, "allowance.E001"),
        ({"JOURNAL_FILE": "/no/such/file"}, "allowance.E002"),
    ],
)
def test_what_is_missing_is_named(environment: dict[str, object], said: str) -> None:
    ended = follow("--once", **environment).finish()
    assert ended.code in {2, 70}
    assert said in ended.err


def test_a_part_that_fails_is_named() -> None:
    own = {"CHAIN_SOURCE": "tests.chains.Lone", "MANIFESTS_FROM": "tests.chains.Dead"}
    ended = follow("--dry-run", COLLATERAL_FROM="none", RECEIPTS_FROM_MINERS=0, **own).finish()
    assert ended.code == 1
    assert "These parts failed: manifests" in ended.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_run_ends_when_it_is_told(number: int) -> None:
    with follow("--once", "--only", "blocks") as program:
        program.await_log("^block ")
        program.stop(number)
        assert Block.objects.count() < 500, "it went on with all that was due"


@pytest.mark.parametrize("part", ["settings", "receipts"])
def test_a_part_that_has_nothing_to_do_is_named(part: str) -> None:
    ended = follow("--only", part).finish()
    assert ended.code == 2
    assert f"there is nothing to follow for: {part}" in ended.err
