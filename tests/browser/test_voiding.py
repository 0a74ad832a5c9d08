"""Voiding an incident, from the list to the score."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from playwright.async_api import expect

from allowance.plumbing.threads import in_database_thread
from routing.models import MinerIncident
from tests.browser.conftest import Enter
from tests.browser.scene import REASON, USER
from tests.browser.visits import Visit, page

pytestmark = pytest.mark.asyncio(loop_scope="session")

INCIDENTS, BOARD = page("routing_minerincident_changelist"), page("routing_board")


@pytest.fixture
def other(transactional_db: None) -> User:
    return User.objects.create_superuser(USER)


async def rank_and_score(visit: Visit, hotkey: str) -> tuple[int, str]:
    await visit.go(BOARD)
    (row,) = (row for row in await visit.rows(".table-wide") if row[1] == hotkey)
    return int(row[0]), row[2]


async def to_the_form(visit: Visit, hotkey: str) -> None:
    """Find the newest incident of a miner in the list, and go to the page on which it is voided."""
    await visit.go(INCIDENTS)
    await visit.page.get_by_label("Miner", exact=True).fill(hotkey)
    await visit.follow(visit.page.get_by_role("button", name="Show"))
    await visit.follow(visit.page.locator("#result_list .field-happened a").first)
    await visit.follow(visit.page.get_by_role("link", name="Void", exact=True))
    await expect(visit.page.get_by_role("heading", level=1)).to_have_text("Void an incident")


async def void(visit: Visit, reason: str) -> None:
    await visit.page.get_by_label("Reason").fill(reason)
    await visit.follow(visit.page.get_by_role("button", name="Void this incident"))
    await expect(visit.page.get_by_role("heading", level=1)).to_have_text("View miner incident")


async def test_a_voided_incident_counts_no_more_and_who_comes_second_is_told_who_did_it(
    visit: Visit, enter: Enter, other: User
) -> None:
    rank, score = await rank_and_score(visit, "bert")
    assert score == "-0.250"
    second = await enter(other)
    await to_the_form(second, "bert")
    await to_the_form(visit, "bert")
    await visit.page.get_by_role("button", name="Void this incident").click()  # the browser insists on a reason
    assert not await visit.page.get_by_label("Reason").evaluate("field => field.validity.valid")
    await void(visit, REASON)
    await expect(visit.page.locator(".messagelist")).to_contain_text("is voided and does not count any more")
    await expect(visit.page.locator(".form-row", has_text="Void reason")).to_contain_text(REASON)
    await expect(visit.page.locator(".form-row", has_text="Voided by")).to_contain_text("boss")
    await expect(visit.page.get_by_role("link", name="Void", exact=True)).to_have_count(0)
    now_ranked = await rank_and_score(visit, "bert")
    assert now_ranked[0] < rank
    assert now_ranked[1] == "0.000"
    await void(second, "I think so too")
    await expect(second.page.locator(".messagelist .error")).to_contain_text("voided by boss")
    incident = await in_database_thread(MinerIncident.objects.get)(voided_by="boss")
    assert incident.void_reason == REASON.strip()


async def test_what_is_voided_is_told_with_the_name_whatever_it_is(visit: Visit, enter: Enter, other: User) -> None:
    await to_the_form(visit, "bert")
    second = await enter(other)
    await to_the_form(second, "bert")
    await void(second, "not its fault")
    await void(visit, "too late")
    await expect(visit.page.locator(".messagelist .error")).to_contain_text(f"voided by {USER}")
    await expect(visit.page.locator(".form-row", has_text="Voided by")).to_contain_text(USER)


async def test_selected_incidents_are_voided_after_one_page_that_asks(visit: Visit) -> None:
    await visit.go(f"{INCIDENTS}?miner=bert")
    await visit.page.locator("#action-toggle").check()
    await visit.page.get_by_label("Action:").select_option("Void selected incidents")
    await visit.follow(visit.page.locator("button[name=index]"))
    await expect(visit.page.get_by_role("heading", level=1)).to_have_text("Void incidents")
    await expect(visit.page.locator("#content-main")).to_contain_text("2 incidents will be voided.")
    await visit.page.get_by_label("Reason").fill(REASON)
    await visit.follow(visit.page.get_by_role("button", name="Void 2 incidents"))
    await expect(visit.page.locator(".messagelist")).to_contain_text("2 of 2 incidents are voided")
    assert await visit.column("voided") == ["voided", "voided"]
    _, score = await rank_and_score(visit, "bert")
    assert score == "0.000"
