"""Put every recorded question to the public API and compare the answers.

More cases: folders in the folder that the environment variable CONFORMANCE_DIR names.
"""

from __future__ import annotations

import datetime as dt
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import time_machine
from asgiref.sync import async_to_sync
from constance import config

from allowance import allowance
from allowance.types import AllowanceException, NotEnoughAllowanceException
from routing import routing
from routing.requests import V2JobRequest
from routing.types import TRUSTED_MINER_FAKE_KEY, JobRoute, JobRoutingException
from routing.upkeep.entries import parse
from routing.upkeep.journal import replay

FOLDERS = [Path(__file__).parent / "cases", *(Path(extra) for extra in [os.environ.get("CONFORMANCE_DIR")] if extra)]
CASES = sorted(case.parent for folder in FOLDERS for case in folder.glob("*/expected.jsonl"))

Answer = dict[str, Any] | str


def test_all_cases_are_found() -> None:
    assert len(CASES) >= 41


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.usefixtures("ledger_clean_at_the_end")
def test_answers_agree(case: Path) -> None:
    journal = next(case.glob("journal.jsonl*"))
    with gzip.open(journal) if journal.suffix == ".gz" else journal.open("rb") as lines:
        list(replay(lines))
    client = Client()
    for number, line in enumerate((case / "expected.jsonl").read_text().splitlines(), start=1):
        question = json.loads(line)
        answer = client.ask(question)
        assert agree(question, answer), f"line {number}: {question} was answered {answer}"


class Client:
    """A validator that asks what the recorded one asked."""

    def __init__(self) -> None:
        self.now = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
        self.reservations: list[int | None] = []

    def ask(self, question: dict[str, Any]) -> Answer | None:
        ask: Callable[[dict[str, Any]], Answer | None] = getattr(self, question["ask"])
        if "now" in question:
            self.now = dt.datetime.fromisoformat(question["now"])
        with time_machine.travel(self.now, tick=False):
            return ask(question)

    def event(self, question: dict[str, Any]) -> None:
        parse(json.dumps({k: v for k, v in question.items() if k != "ask"})).apply()

    def find(self, question: dict[str, Any]) -> Answer:
        names = ("allowance_seconds", "executor_class", "job_start_block")
        try:
            return {"miners": allowance().find_miners_with_allowance(**{name: question[name] for name in names})}
        except AllowanceException as error:
            return refused(error)

    def pick(self, question: dict[str, Any]) -> Answer:
        config.DYNAMIC_MINIMUM_COLLATERAL_AMOUNT_WEI = question["config"]["DYNAMIC_MINIMUM_COLLATERAL_AMOUNT_WEI"]
        config.DYNAMIC_ROUTING_RELIABILITY_WINDOW_HOURS = float(question["config"]["RELIABILITY_WINDOW_HOURS"])
        request = V2JobRequest(**question["request"])
        try:
            route: JobRoute = async_to_sync(routing().pick_miner_for_job_request)(request)
        except (AllowanceException, JobRoutingException) as error:
            self.reservations.append(None)
            return refused(error)
        self.reservations.append(route.allowance_reservation_id)
        return {
            "hotkey": route.miner.hotkey_ss58,
            "address": route.miner.address,
            "ip_version": route.miner.ip_version,
            "port": route.miner.port,
            "allowance_blocks": route.allowance_blocks,
        }

    def spend(self, question: dict[str, Any]) -> Answer:
        return self.end(question, allowance().spend_allowance)

    def undo(self, question: dict[str, Any]) -> Answer:
        return self.end(question, allowance().undo_allowance_reservation)

    def end(self, question: dict[str, Any], end: Callable[[int], None]) -> Answer:
        reservation = self.reservations[question["pick"]]
        assert reservation is not None
        try:
            end(reservation)
        except AllowanceException as error:
            return refused(error)
        return "ok"


def refused(error: Exception) -> dict[str, Any]:
    names = [kind.__name__ for kind in type(error).__mro__]
    answer: dict[str, Any] = {"errors": names}
    if isinstance(error, NotEnoughAllowanceException):
        answer["highest_available_allowance"] = error.highest_available_allowance
        answer["highest_unspent_allowance"] = error.highest_unspent_allowance
    return answer


def agree(question: dict[str, Any], answer: Any) -> bool:
    if question["ask"] == "event":
        return answer is None
    expected = question["answer"]
    if isinstance(expected, str):
        return bool(expected == answer or (answer != "ok" and expected in answer["errors"]))
    if "error" in expected:
        return expected["error"] in answer.get("errors", ()) and all(
            answer[name] == pytest.approx(value, rel=1e-6) for name, value in expected.items() if name != "error"
        )
    if "miners" in expected:
        if question.get("unordered"):
            return bool(dict(answer["miners"]) == pytest.approx(dict(expected["miners"]), rel=1e-6))
        hotkeys, seconds = zip(*expected["miners"], strict=True)
        return [h for h, _ in answer["miners"]] == list(hotkeys) and [s for _, s in answer["miners"]] == pytest.approx(
            list(seconds), rel=1e-6
        )
    if expected["hotkey"] == TRUSTED_MINER_FAKE_KEY:
        return all(answer[name] == expected[name] for name in ("hotkey", "allowance_blocks"))
    return bool(answer == expected)
