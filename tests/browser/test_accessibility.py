"""Pages for everybody: axe's rules in both themes, and all of it by the keyboard alone."""

from __future__ import annotations

import pytest
from axe_playwright_python.async_playwright import Axe
from django.contrib.auth.models import User
from playwright.async_api import expect

from allowance.plumbing.threads import in_database_thread
from routing.pages import MENU, Page
from tests.browser.addresses import pages
from tests.browser.conftest import Enter
from tests.browser.scene import NASTY
from tests.browser.visits import Visit, page

pytestmark = pytest.mark.asyncio(loop_scope="session")

OF_COLORS = ["color-contrast", "link-in-text-block"]
"""The rules that a theme can break, of those that are grave."""

DJANGO_S_OWN = [[".breadcrumbs"]]
"""Its links in them differ from the text around by their colour alone."""

OUTSIDE = "#header, #nav-sidebar, #toggle-nav-sidebar, .breadcrumbs, .skip-to-content-link, body"

REMEMBER = """() => {
    const element = document.activeElement;
    (window.stops ??= []).push([element, {...getComputedStyle(element)}]);
    return element === document.body;
}"""

STOPS = """outside => {
    document.activeElement.blur();
    return window.stops.filter(([element]) => !element.matches(outside) && !element.closest(outside)?.id)
        .map(([element, focused]) => ({
            what: element.role === "region" ? element.className
                : element.name || element.type === "submit" && element.value || element.textContent,
            shown: Object.entries({...getComputedStyle(element)}).some(([name, value]) => focused[name] !== value),
        }));
}"""


@pytest.mark.usefixtures("some_of_everything")
@pytest.mark.parametrize(("theme", "rules"), [("light", {}), ("dark", {"runOnly": OF_COLORS})], ids=["light", "dark"])
async def test_axe_finds_nothing_grave_on_any_page(
    theme: str, rules: dict[str, object], enter: Enter, boss: User
) -> None:
    visit = await enter(boss, color_scheme=theme, bypass_csp=True)
    found = {}
    for name, path in (await in_database_thread(pages)()).items():
        await visit.go(path)
        found[name] = await grave(visit, rules)
    assert {where: what for where, what in found.items() if what} == {}


async def grave(visit: Visit, rules: dict[str, object]) -> dict[str, list[object]]:
    """Return the rules that a page breaks gravely, and the first elements by which it does."""
    results = await Axe().run(visit.page, {"exclude": DJANGO_S_OWN}, {"resultTypes": ["violations"], **rules})
    broken = [rule for rule in results.response["violations"] if rule["impact"] in {"serious", "critical"}]
    return {rule["id"]: [node["target"] for node in rule["nodes"][:5]] for rule in broken}


async def stops(visit: Visit) -> dict[str, bool]:
    """Press Tab through a page to its end; return what is stopped at, and whether one sees that."""
    for _ in range(400):
        await visit.page.keyboard.press("Tab")
        if await visit.page.evaluate(REMEMBER):
            break
    return {stop["what"].strip(): stop["shown"] for stop in await visit.page.evaluate(STOPS, OUTSIDE)}


MENU_LINKS = [entry.title for entry in MENU]
FILTERS = ["time", "class", "type", "miner", "voided", "Show", "q", "Search all time", "Download as CSV"]
FIELDS = ["executor_class", "seconds", "minimum_wei", "hours", "unused_blocks", "exclude", "Rank the miners"]
REACHED = {
    "Incidents": [*FILTERS, "The numbers", "Time", NASTY[0]],
    "Reliability": [*FIELDS, "Show as JSON", "table-wide", NASTY[0]],
    "Decisions": ["time", "outcome", "class", "q", "Show", NASTY[0]],
    "Status": ["Refresh", "table-wide", "The numbers"],
    "Sources": ["table-wide", "The blocks", "table-scroll tall", NASTY[0]],
    "Ledger": ["All checks", "The numbers", "executor_class", "sort", "Show", "live now", NASTY[0]],
}


@pytest.mark.parametrize("entry", MENU, ids=lambda entry: entry.title)
async def test_the_keyboard_reaches_everything_and_one_sees_where_it_is(entry: Page, visit: Visit) -> None:
    await visit.go(page(entry.name))
    found = await stops(visit)
    assert [what for what in (*MENU_LINKS, *REACHED[entry.title]) if what not in found] == []
    assert [what for what, shown in found.items() if not shown] == []


@pytest.mark.usefixtures("some_of_everything")
async def test_the_keyboard_alone_opens_numbers_scrolls_them_and_goes_on(enter: Enter, boss: User) -> None:
    visit = await enter(boss, bypass_csp=True)  # else Playwright could not wait for what happens in the page
    await visit.go(page("routing_minerincident_changelist"))
    numbers = visit.page.locator("figure", has=visit.page.locator("#incidents-over-time-canvas"))
    await numbers.locator("summary").focus()
    await visit.page.keyboard.press("Enter")
    await expect(numbers.locator("details")).to_have_attribute("open", "")
    await visit.page.keyboard.press("Tab")
    await visit.page.keyboard.press("End")
    await visit.page.wait_for_function("document.activeElement.scrollTop > 1000")
    await visit.menu.filter(has_text="Ledger").focus()
    async with visit.page.expect_navigation():
        await visit.page.keyboard.press("Enter")
    assert visit.page.url == visit.address + page("routing_ledger")
    await visit.page.get_by_label("Sorted by").focus()
    await visit.page.keyboard.type("miner")
    async with visit.page.expect_navigation():
        await visit.page.keyboard.press("Tab")
        await visit.page.keyboard.press("Enter")
    assert "sort=miner" in visit.page.url
