"""Filters, searches, forms and headings, used as people use them: they leave what the database says they should."""

from __future__ import annotations

import csv
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from django.utils import timezone
from playwright.async_api import Page, expect

from allowance.plumbing.threads import in_database_thread
from routing.models import DecisionRecord, MinerIncident
from tests.browser.scene import DAY, FAILED, HOUR, LONG, NASTY, OTHER_CLASS, REASON, REJECTED, USER
from tests.browser.visits import Visit, page
from tests.ledgers import CLASS

pytestmark = pytest.mark.asyncio(loop_scope="session")

INCIDENTS, DECISIONS = page("routing_minerincident_changelist"), page("routing_decisionrecord_changelist")
BOARD, LEDGER = page("routing_board"), page("routing_ledger")
SEARCH = "The start of a hotkey, or of a job's uuid (6 characters or more)"

Holds = Callable[[MinerIncident], bool]


async def choose(page: Page, label: str, value: str) -> None:
    """Choose from a list of the filters, or type what there is no list of."""
    field = page.get_by_role("form", name="Filter").get_by_label(label, exact=True)
    if await field.evaluate("field => field.tagName") == "SELECT":
        await field.select_option(label=value)
    else:
        await field.fill(value)


async def jobs(holds: Holds) -> list[str]:
    """Return the jobs of the incidents for which something holds, the newest first."""
    rows = await in_database_thread(lambda: list(MinerIncident.objects.order_by("-timestamp", "-pk")))()
    return [str(row.job_uuid) for row in rows if holds(row)]


def lately(incident: MinerIncident) -> bool:
    return incident.timestamp > timezone.now() - 7 * DAY


FILTERS: dict[str, tuple[dict[str, str], Holds]] = {
    "nothing chosen": ({}, lately),
    "time": ({"Time": "last 24 hours, by hour"}, lambda i: i.timestamp > timezone.now() - DAY),
    "any time": ({"Time": "any time"}, lambda i: True),
    "class": ({"Executor class": OTHER_CLASS}, lambda i: i.executor_class == OTHER_CLASS and lately(i)),
    "type": ({"Type": "rejected the job"}, lambda i: i.type == REJECTED and lately(i)),
    "miner": ({"Miner": NASTY[2]}, lambda i: i.hotkey_ss58address == NASTY[2]),
    "voided": ({"Voided": "voided"}, lambda i: i.voided_at is not None),
    "not voided": ({"Voided": "not voided"}, lambda i: i.voided_at is None and lately(i)),
    "two of them": (
        {"Time": "any time", "Miner": LONG, "Type": "rejected the job"},
        lambda i: i.hotkey_ss58address == LONG and i.type == REJECTED,
    ),
}


async def test_incidents_are_filtered(visit: Visit) -> None:
    for name, (choices, holds) in FILTERS.items():
        await visit.go(INCIDENTS)
        for label, value in choices.items():
            await choose(visit.page, label, value)
        await visit.follow(visit.page.get_by_role("button", name="Show"))
        assert sorted(await visit.column("job")) == sorted(await jobs(holds)), name
        drawn = (await visit.charts()).get("incidents-by-type")
        counting = await jobs(lambda i: holds(i) and i.voided_at is None)  # noqa: B023 (called at once)
        assert (sum(drawn.totals) if drawn else 0) == len(counting), name
    await visit.follow(visit.page.get_by_role("link", name="Clear", exact=True))
    assert sorted(await visit.column("job")) == sorted(await jobs(lately))


async def test_incidents_are_searched_by_job_and_by_the_beginning_of_a_hotkey(visit: Visit) -> None:
    (old,) = await jobs(lambda i: not lately(i))  # a search is one of all time
    for term, expected in ((old, [old]), ("<scr", await jobs(lambda i: i.hotkey_ss58address == NASTY[0])), ("?", [])):
        await visit.go(INCIDENTS)
        await visit.page.get_by_label(SEARCH).fill(term)
        async with visit.page.expect_navigation():
            await visit.page.keyboard.press("Enter")
        assert sorted(await visit.column("job")) == sorted(expected), term


async def test_the_file_has_what_the_list_shows(visit: Visit, tmp_path: Path) -> None:
    await visit.go(INCIDENTS)
    await choose(visit.page, "Type", "failed the job")
    await visit.follow(visit.page.get_by_role("button", name="Show"))
    async with visit.page.expect_download() as downloading:
        await visit.page.get_by_role("link", name="Download as CSV").click()
    download = await downloading.value
    assert download.suggested_filename == f"incidents-{timezone.now():%Y-%m-%d}.csv"
    await download.save_as(tmp_path / "incidents.csv")
    rows = list(csv.DictReader(StringIO((tmp_path / "incidents.csv").read_bytes().decode())))
    assert [row["job_uuid"] for row in rows] == await jobs(lambda i: i.type == FAILED and lately(i))
    assert [row["job_uuid"] for row in rows] == await visit.column("job")
    assert [row["hotkey"] for row in rows] == await visit.column("hotkey")
    (voided,) = (row for row in rows if row["voided_at"])
    assert (voided["hotkey"], voided["voided_by"], voided["void_reason"]) == (NASTY[1], USER, REASON)


async def test_decisions_are_filtered_and_searched(visit: Visit) -> None:
    records = await in_database_thread(lambda: list(DecisionRecord.objects.order_by("-at", "-pk")))()
    lately = [row for row in records if row.at > timezone.now() - HOUR]
    expected: list[tuple[dict[str, str], list[DecisionRecord]]] = [
        ({}, records),
        ({"Outcome": "all miners busy"}, [row for row in records if row.outcome == "ALL_MINERS_BUSY"]),
        ({"Outcome": "routed", "Time": "last hour"}, [row for row in lately if row.outcome == "ROUTED"]),
        ({"Executor class": OTHER_CLASS}, []),
        ({SEARCH: str(records[-1].job_uuid)}, records[-1:]),
        ({SEARCH: "<scr"}, [row for row in records if row.miner == NASTY[0]]),
    ]
    await visit.go(DECISIONS)
    for choices, rows in expected:
        for label, value in choices.items():
            await choose(visit.page, label, value)
        await visit.follow(visit.page.get_by_role("button", name="Show"))
        assert await visit.column("job") == [str(row.job_uuid) for row in rows], choices
        assert await visit.column("outcome") == [row.get_outcome_display() for row in rows], choices
        if choices:
            await visit.follow(visit.page.get_by_role("link", name="Clear", exact=True))


async def ask_the_router(visit: Visit, **fields: str) -> dict[str, list[str]]:
    """Fill in the board's form, and return the rows of the candidates by hotkey."""
    form = visit.page.get_by_role("form", name="The job and what-if values")
    for name, value in fields.items():
        await form.locator(f"[name={name}]").fill(value)
    await visit.follow(form.get_by_role("button", name="Rank the miners"))
    return {row[1]: row for row in await visit.rows(".table-wide")}


async def test_the_board_asks_what_if(visit: Visit) -> None:
    await visit.go(BOARD)
    at_first = await ask_the_router(visit)
    assert [row[0] for row in at_first.values()] == [str(rank) for rank in range(1, 10)]
    assert at_first[NASTY[0]][2:4] == ["-1.000", "4"]
    assert (await ask_the_router(visit, hours="1.5"))[NASTY[0]][2:4] == ["-0.250", "1"]
    without = await ask_the_router(visit, exclude=f"anna {NASTY[5]}")
    excluded = {hotkey for hotkey, row in without.items() if row[-1] == "excluded: excluded by the caller"}
    assert excluded == {"anna", NASTY[5]}
    poor = await ask_the_router(visit, minimum_wei="1001", exclude="")
    assert {row[-1] for row in poor.values()} == {"collateral: 1000 Wei posted, 1001 Wei needed"}
    long = await ask_the_router(visit, minimum_wei="", seconds="950")
    assert {hotkey for hotkey, row in long.items() if row[-1].startswith("eligible")} == {"bert"}
    await expect(visit.page.locator("[name=seconds]")).to_have_value("950")


async def test_the_board_says_what_is_wrong_at_the_field(visit: Visit) -> None:
    await visit.go(BOARD)
    assert await ask_the_router(visit, minimum_wei="-1", exclude="x" * 49) == {}
    errors = visit.page.locator(".what-if > div", has=visit.page.locator(".errorlist"))
    assert await errors.locator("[name]").evaluate_all("all => all.map(field => field.name)") == [
        "minimum_wei",
        "exclude",
    ]
    assert "is not an amount. Write it as" in await errors.nth(0).inner_text()
    assert "A hotkey has 1 to 48 printable characters" in await errors.nth(1).inner_text()
    seconds = visit.page.locator("[name=seconds]")
    await seconds.fill("3601")
    await visit.page.get_by_role("button", name="Rank the miners").click()
    assert not await seconds.evaluate("field => field.validity.valid")  # the browser itself does not send that


async def test_the_ledger_s_miners_are_chosen_by_class_and_sorted(visit: Visit) -> None:
    await visit.go(LEDGER)
    miners = ".tall table"
    at_first = await visit.rows(miners)
    assert {row[0] for row in at_first} == {*NASTY, LONG, "anna", "bert"}
    spent = [float(row[3]) for row in at_first]
    assert spent == sorted(spent, reverse=True)
    assert spent[0] > spent[-1]
    await visit.follow(visit.page.locator(".tall").get_by_role("link", name="expired in 24 h"))
    assert [row[7] for row in await visit.rows(miners)] == ["1"] * 3 + ["0"] * 6
    heading = visit.page.get_by_role("columnheader", name="expired in 24 h")
    await expect(heading).to_have_attribute("aria-sort", "descending")
    await visit.page.get_by_label("Sorted by").select_option(label="miner")
    await visit.follow(visit.page.get_by_role("button", name="Show"))
    names = [row[0] for row in await visit.rows(miners)]
    assert names == sorted(names)
    await visit.page.get_by_label("Executor class").select_option(label=OTHER_CLASS)
    await visit.follow(visit.page.get_by_role("button", name="Show"))
    await expect(visit.page.locator("section", has_text="No miner has an account in this class yet.")).to_have_count(1)
    await visit.page.get_by_label("Executor class").select_option(label=CLASS)
    await visit.follow(visit.page.get_by_role("button", name="Show"))
    assert len(await visit.rows(miners)) == 9
