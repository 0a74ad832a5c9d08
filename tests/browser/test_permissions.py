"""Who lacks a permission sees neither the page nor a link to it."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from allowance.plumbing.threads import in_database_thread
from routing.pages import MENU, SEE_MINER, Page
from routing.pages.incidents import VOID
from tests.browser.addresses import pages
from tests.browser.conftest import Enter
from tests.browser.visits import page
from tests.visitors import member

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.usefixtures("some_of_everything")]

INDEX = page("index")


async def addresses() -> dict[str, str]:
    """Return the addresses of all pages but the admin's index, which all of the staff may see."""
    return {name: path for name, path in (await in_database_thread(pages)()).items() if path != INDEX}


async def test_without_permissions_there_is_nothing(enter: Enter) -> None:
    visit = await enter(await in_database_thread(member)())
    await visit.go(INDEX)
    await expect(visit.page.locator(".operators-menu")).to_have_count(0)
    links = await visit.page.locator("a").evaluate_all("all => all.map(a => a.getAttribute('href'))")
    assert not [link for link in links if link and link.startswith(page("app_list", "routing"))]
    for name, path in (await addresses()).items():
        await visit.go(path, status=404 if name == "the index of routing" else 403)
        await expect(visit.page.locator(".operators-menu, figure, #result_list, table")).to_have_count(0)


@pytest.mark.parametrize("entry", MENU, ids=lambda entry: entry.title)
async def test_with_the_permissions_for_one_page_that_is_all_there_is(entry: Page, enter: Enter) -> None:
    visit = await enter(await in_database_thread(member)(*entry.permissions))
    await visit.go(INDEX)
    for other in MENU:
        is_open = set(other.permissions) <= set(entry.permissions)
        await expect(visit.menu.filter(has_text=other.title)).to_have_count(int(is_open))
    await visit.follow(visit.menu.filter(has_text=entry.title))
    assert visit.page.url == visit.address + page(entry.name)
    miners = page("routing_miner", "x").removesuffix("x/")
    await expect(visit.page.locator(f"a[href^='{miners}']")).to_have_count(0)  # they take more
    for other in MENU:
        is_open = set(other.permissions) <= set(entry.permissions)
        await visit.go(page(other.name), status=200 if is_open else 403)


async def test_who_may_not_void_is_offered_nothing_to_void_with(enter: Enter) -> None:
    visit = await enter(await in_database_thread(member)(*VOID[:-1]))
    paths = await addresses()
    await visit.go(paths["an incident"])
    await expect(visit.page.get_by_role("link", name="Void")).to_have_count(0)
    await visit.go(paths["voiding"], status=403)


async def test_a_miner_s_page_takes_all_that_it_shows(enter: Enter) -> None:
    paths = await addresses()
    visit = await enter(await in_database_thread(member)(*SEE_MINER))
    await visit.go(paths["the page of anna"])
    for permission in SEE_MINER:
        await in_database_thread(member)(*(other for other in SEE_MINER if other != permission))
        await visit.go(paths["the page of anna"], status=403)


async def test_who_is_not_logged_in_is_asked_to(enter: Enter) -> None:
    visit = await enter()
    for path in (await in_database_thread(pages)()).values():
        await visit.go(path)
        await expect(visit.page.get_by_label("Password")).to_have_count(1)
        await expect(visit.page.locator(".operators-menu, figure, #result_list")).to_have_count(0)
