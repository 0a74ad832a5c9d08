"""dry_run_routing: what it tells, how it ends, and that it writes nothing."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from constance import config
from pytest_django import Settings

from allowance import allowance
from routing import routing
from routing.types import TRUSTED_MINER_FAKE_KEY
from tests.clock import HOUR, NOW, noon
from tests.factories import job_request, run_command
from tests.ledgers import CLASS, FIRST_BLOCK
from tests.programs import Finished
from tests.queries import assert_only_reads
from tests.rows import AXON, declare, hold, report

JOB: list[object] = ["--executor-class", CLASS, "--seconds", 30]
MUCH_WEI = 10**30 + 1
pytestmark = [pytest.mark.django_db, noon, pytest.mark.miners("hot-1", "hot-2")]


@pytest.fixture(autouse=True)
def incident_and_collateral(ledger: None) -> None:
    """hot-1 is the more reliable one, hot-2 the richer one."""
    allowance().record_collateral(hotkey="hot-2", wei=MUCH_WEI)
    report("hot-2", at=NOW - HOUR)


def dry_run(*options: object) -> Finished:
    return run_command("dry_run_routing", *options)


def decisions(*options: object) -> list[dict[str, Any]]:
    """Return what a dry run says in JSON, one decision a line."""
    return [json.loads(said) for said in dry_run(*options, "--format", "json").out.splitlines()]


def written(path: Path, *jobs: dict[str, Any]) -> Path:
    path.write_text("\n".join(json.dumps(job) for job in jobs))
    return path


def wire(seconds: int = 30, **fields: Any) -> dict[str, Any]:
    return {**job_request(seconds).model_dump(mode="json"), **fields}


def verdicts(decision: dict[str, Any]) -> dict[str, str | None]:
    return {c["hotkey"]: c["verdict"]["gate"] for c in decision["candidates"]}


def test_the_text_has_the_ranked_candidates_the_fate_and_a_summary() -> None:
    ended = dry_run(*JOB)
    head, columns, first, second, fate, summary, *rest = ended.out.splitlines()
    assert ended.code == 0
    assert f"{CLASS}, 30 s, at block {FIRST_BLOCK + 20}" in head
    assert columns.split()[:3] == ["rank", "hotkey", "score"]
    assert first.split("eligible: ")[0].split() == ["1", "hot-1", "0.000", "0", "2", "0", "240.0", "0", "Wei"]
    assert first.rstrip().endswith("eligible: gets the job")
    of_second = ["2", "hot-2", "-0.500", "1", "2", "0", "240.0", f"{10**12}.000000000000000001", "TAO"]
    assert second.split("eligible: ")[0].split() == of_second
    assert second.rstrip().endswith("eligible: ranked below the miner that gets the job")
    assert fate == f"Routed to hot-1 at 10.0.0.1:9000, paid with 3 blocks ({FIRST_BLOCK} to {FIRST_BLOCK + 2})."
    assert summary == "2 of 2 miners eligible"
    assert not any(rest)


def test_the_text_can_end_after_the_first_candidates() -> None:
    told = dry_run(*JOB, "--top", 1).out
    assert "gets the job" in told
    assert "ranked below" not in told
    assert "… and 1 more" in told


@pytest.mark.parametrize(
    ("options", "refusal", "sentences"),
    [
        (["--seconds", 300], "No miner has 300 s of allowance", ["240 s free, 300 s needed"]),
        (
            ["--min-collateral", 10**30 + 2],
            "with a collateral below",
            ["0 Wei posted, 1000000000000.000000000000000002 TAO needed", f"{10**12}.000000000000000001 TAO posted"],
        ),
        (["--exclude", "hot-1", "--exclude", "hot-2"], "No miner has 30 s", ["excluded by the caller"]),
    ],
    ids=["allowance", "collateral", "excluded"],
)
def test_a_job_that_nobody_takes_ends_with_1_and_says_why(
    options: list[object], refusal: str, sentences: list[str]
) -> None:
    ended = dry_run(*JOB, *options)
    assert ended.code == 1
    for text in (refusal, *sentences, "0 of 2 miners"):
        assert text in ended.out


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ([], "Lower DYNAMIC_MINIMUM_COLLATERAL_AMOUNT_WEI, or wait until miners post more."),
        (["--min-collateral", "2e30"], "Lower --min-collateral, or wait until miners post more."),
        (
            ["--min-collateral", "2e30", "--exclude", "hot-1"],
            "Lower --min-collateral, or wait until miners post more, or exclude fewer miners with --exclude.",
        ),
        (
            ["--exclude", "hot-1", "--exclude", "hot-2"],
            "2 miners were excluded: exclude fewer miners with --exclude.",
        ),
        (
            ["--exclude", "hot-1", "--seconds", 3600],
            "1 miner was excluded: exclude fewer miners with --exclude. Retry with a shorter job",
        ),
    ],
    ids=repr,
)
def test_the_advice_names_the_what_if_that_refused(options: list[object], advice: str) -> None:
    config.DYNAMIC_MINIMUM_COLLATERAL_AMOUNT_WEI = 0 if options else 10**31
    told = dry_run(*JOB, *options).out
    assert advice in told
    assert ("DYNAMIC_MINIMUM" in told) is not bool(options)


def test_the_json_has_all_of_the_decision() -> None:
    (decision,) = decisions(*JOB)
    assert decision["outcome"] == "ROUTED"
    blocks = [FIRST_BLOCK, FIRST_BLOCK + 1, FIRST_BLOCK + 2]
    assert decision["route"] == {"hotkey": "hot-1", **AXON, "allowance_blocks": blocks}
    ranked = [(c["rank"], c["hotkey"], c["score"]) for c in decision["candidates"]]
    assert ranked == [(1, "hot-1", 0.0), (2, "hot-2", -0.5)]
    assert [c["collateral_wei"] for c in decision["candidates"]] == ["0", str(MUCH_WEI)]
    assert decision["counts"] == {}
    assert (decision["block"], decision["at"], decision["seconds"]) == (FIRST_BLOCK + 20, NOW.isoformat(), 30)


def test_the_json_of_a_refusal_has_no_route_and_counts_the_gates() -> None:
    (decision,) = decisions(*JOB, "--min-collateral", 1, "--exclude", "hot-2")
    assert (decision["outcome"], decision["route"]) == ("NOT_ENOUGH_COLLATERAL", None)
    assert decision["counts"] == {"excluded": 1, "collateral": 1}
    assert verdicts(decision) == {"hot-1": "collateral", "hot-2": "excluded"}


def test_a_job_may_be_a_file(tmp_path: Path) -> None:
    job = wire()
    (decision,) = decisions("--job", written(tmp_path / "job.json", job))
    assert (decision["uuid"], decision["route"]["hotkey"]) == (job["uuid"], "hot-1")


def test_each_of_many_jobs_sees_the_reservations_of_those_before(tmp_path: Path) -> None:
    jobs = written(tmp_path / "jobs.jsonl", *(wire() for _ in range(5)))
    ended = dry_run("--jobs", jobs)
    assert ended.code == 1
    assert ended.out.splitlines()[-1] == "4 of 5 jobs routed."
    told = decisions("--jobs", jobs)
    assert [d["route"] and d["route"]["hotkey"] for d in told] == ["hot-1", "hot-1", "hot-2", "hot-2", None]
    assert told[-1]["outcome"] == "ALL_MINERS_BUSY"
    assert told[-1]["counts"] == {"executors": 2}
    blocks = [d["route"]["allowance_blocks"][0] for d in told[:-1]]
    assert blocks == [FIRST_BLOCK, FIRST_BLOCK + 3] * 2


def test_the_only_executor_takes_one_job(tmp_path: Path) -> None:
    jobs = written(tmp_path / "jobs.jsonl", wire(), wire())
    declare({"hot-1": 1}, FIRST_BLOCK)
    first, second = decisions("--jobs", jobs, "--exclude", "hot-2")
    assert (first["outcome"], second["outcome"]) == ("ROUTED", "ALL_MINERS_BUSY")
    assert "1 job ongoing on 1 executor" in dry_run("--jobs", jobs, "--exclude", "hot-2").out


def test_blank_lines_between_jobs_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_text(f"\n{json.dumps(wire())}\n \n{json.dumps(wire())}\n")
    assert len(decisions("--jobs", path)) == 2


@pytest.mark.parametrize(
    ("options", "hotkey"),
    [
        ([], "hot-1"),
        (["--exclude", "hot-1"], "hot-2"),
        (["--exclude", "nobody"], "hot-1"),
        (["--min-collateral", MUCH_WEI], "hot-2"),
        (["--min-collateral", 0], "hot-1"),
        (["--window", 2.5], "hot-2"),
        (["--window", 1.5], "hot-1"),
        (["--at", (NOW + 22 * HOUR).isoformat()], "hot-2"),
        (["--at", (NOW + 24 * HOUR).isoformat()], "hot-1"),
    ],
    ids=repr,
)
def test_what_if_options_change_the_decision(options: list[object], hotkey: str) -> None:
    for _ in range(2):
        report("hot-1", at=NOW - 2 * HOUR)
    if not any(option in options for option in ("--window", "--at")):
        options = [*options, "--window", 1]
    (decision,) = decisions(*JOB, *options)
    assert decision["route"]["hotkey"] == hotkey


def test_a_hold_is_over_at_a_later_time() -> None:
    hold("hot-1")
    at = [(NOW + dt.timedelta(seconds=130, microseconds=n)).isoformat() for n in (-1, 0)]
    blocks = [decisions(*JOB, "--at", time)[0]["route"]["allowance_blocks"][0] for time in at]
    assert blocks == [FIRST_BLOCK + 3, FIRST_BLOCK]


BAD = [
    ([], "Give a job"),
    (["--executor-class", CLASS], "Give both"),
    (["--seconds", 30], "Give both"),
    ([*JOB, "--job", "x"], "Give a job"),
    (["--job", "x", "--jobs", "x"], "Give a job"),
    (["--executor-class", "gpu", "--seconds", 30], "--executor-class: executor_class"),
    (["--executor-class", CLASS, "--seconds", 0], "--seconds: Seconds must be a finite number above 0, not 0"),
    (["--executor-class", CLASS, "--seconds=-5"], "--seconds: A time limit must be 0 s or more, not -5"),
    (
        ["--executor-class", CLASS, "--seconds", 99999],
        "--seconds: A job may take at most 3600 s, but this job asks for 99999 s",
    ),
    ([*JOB, "--min-collateral=-1"], "--min-collateral: '-1' is not an amount"),
    ([*JOB, "--min-collateral", "10.000"], "--min-collateral: '10.000' has a point"),
    ([*JOB, "--min-collateral", 2**256], f"--min-collateral: '{2**256}' is more"),
    ([*JOB, "--window=-1"], "--window: The number of hours must be 0 to 8784, not -1"),
    ([*JOB, "--window", "nan"], "--window: The number of hours must be 0 to 8784, not nan"),
    ([*JOB, "--window", "inf"], "--window: The number of hours must be 0 to 8784, not inf"),
    ([*JOB, "--exclude", "a b"], "--exclude: 'a b' is not a hotkey"),
    ([*JOB, "--top=-1"], "--top must be 1 or more, not -1"),
    ([*JOB, "--at", "tomorrow"], "--at 'tomorrow'"),
    ([*JOB, "--at", "2026-01-01T12:00:00"], "2026-01-01T12:00:00"),
    ([*JOB, "--at", "2026-13-01T12:00:00Z"], "2026-13-01T12:00:00Z"),
    ([*JOB, "--at", "0001-01-01T00:00:00Z"], "0001-01-01"),
    ([*JOB, "--at", "9999-12-31T23:59:59Z"], "9999-12-31"),
    (["--job", "/nowhere/job.json"], "/nowhere/job.json"),
    (["--jobs", "/"], "/"),
]


@pytest.mark.parametrize(("options", "named"), BAD, ids=repr)
def test_bad_options_end_with_2_and_are_named(options: list[object], named: str) -> None:
    ended = dry_run(*options)
    assert (ended.code, ended.out) == (2, "")
    assert named in ended.err


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (b"{", "JSON"),
        (b"[]", "object"),
        (b"\xff", "JSON"),
        (json.dumps(wire(colour="red")).encode(), "colour"),
        (json.dumps(wire(executor_class="gpu")).encode(), "executor_class"),
        (json.dumps(wire(uuid="job")).encode(), "'job'"),
        (json.dumps(wire(0)).encode(), "not 0"),
    ],
    ids=["no JSON", "a list", "invalid UTF-8", "extra field", "unknown class", "bad uuid", "no seconds"],
)
def test_a_bad_job_ends_with_2_and_is_told_with_its_line(bad: bytes, named: str, tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(json.dumps(wire()).encode() + b"\n\n" + bad)
    ended = dry_run("--jobs", path)
    assert ended.code == 2
    assert ended.err.startswith(f"{path}, line 3: ")
    assert named in ended.err


def test_a_trusted_job_needs_no_allowance(tmp_path: Path) -> None:
    job = written(tmp_path / "job.json", wire(on_trusted_miner=True))
    assert "a fixed route without candidates" in dry_run("--job", job).out
    (decision,) = decisions("--job", job)
    assert decision["route"]["hotkey"] == TRUSTED_MINER_FAKE_KEY
    assert (decision["route"]["allowance_blocks"], decision["candidates"]) == (None, [])


def test_the_debug_miner_gets_every_job(settings: Settings) -> None:
    settings.DEBUG_MINER_KEY, settings.DEBUG_MINER_ADDRESS, settings.DEBUG_MINER_PORT = "hot-9", "10.9.9.9", 99
    (decision,) = decisions(*JOB)
    assert (decision["route"]["hotkey"], decision["route"]["allowance_blocks"]) == ("hot-9", [])


@pytest.mark.parametrize("seconds", [30, 300, 3601], ids=["routed", "refused", "bad"])
def test_a_dry_run_only_reads(seconds: int, tmp_path: Path) -> None:
    jobs = written(tmp_path / "jobs.jsonl", wire(), wire(seconds), wire())
    assert_only_reads(lambda: dry_run("--jobs", jobs))


@pytest.mark.parametrize("exclude", [[], ["hot-1"]], ids=repr)
def test_a_live_pick_goes_where_the_dry_run_said(exclude: list[str], tmp_path: Path) -> None:
    requests = [job_request() for _ in range(2)]
    jobs = written(tmp_path / "jobs.jsonl", *(request.model_dump(mode="json") for request in requests))
    said = decisions("--jobs", jobs, *(part for hotkey in exclude for part in ("--exclude", hotkey)))
    for request, decision in zip(requests, said, strict=True):
        route = routing().pick(request, exclude=exclude)
        assert decision["uuid"] == str(UUID(request.uuid))
        assert decision["route"]["hotkey"] == route.miner.hotkey_ss58
        assert decision["route"]["allowance_blocks"] == route.allowance_blocks
