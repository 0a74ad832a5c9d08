"""Every page loads, whole and clean: whatever goes wrong on the way, `enter` hears of it."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from playwright.async_api import expect
from pytest_django import Settings

from allowance.plumbing.threads import in_database_thread
from routing.pages import MENU
from tests.browser.addresses import pages
from tests.browser.conftest import Enter
from tests.browser.visits import Visit, page

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_every_page_loads_under_a_strict_policy_without_a_word_in_the_console(visit: Visit) -> None:
    for name, path in (await in_database_thread(pages)()).items():
        await visit.go(path)
        await expect(visit.menu, name).to_have_count(6)
        assert await visit.page.locator("h1").count() == 1, name
        assert visit.troubles == [], name


@pytest.fixture
def password(boss: User, settings: Settings) -> str:
    """Return the boss's, kept as the server keeps it, which is not as fast as tests do."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.PBKDF2PasswordHasher"]
    boss.set_password("correct horse")
    boss.save()
    return "correct horse"


async def test_somebody_logs_in_by_the_form_and_is_sent_to_the_page_they_wanted(enter: Enter, password: str) -> None:
    visit = await enter()
    wanted = page("routing_status")
    await visit.go(wanted)
    await visit.page.get_by_label("Username").fill("boss")
    await visit.page.get_by_label("Password").fill("wrong")
    await visit.page.get_by_role("button", name="Log in").click()
    await expect(visit.page.locator(".errornote")).to_contain_text("Please enter the correct username and password")
    await visit.page.get_by_label("Password").fill(password)
    await visit.page.get_by_role("button", name="Log in").click()
    await expect(visit.page).to_have_url(visit.address + wanted)
    await expect(visit.page.get_by_role("heading", level=1)).to_have_text("Status")


async def test_nothing_at_all_is_there_on_an_empty_database(enter: Enter, boss: User) -> None:
    visit = await enter(boss)
    for entry in MENU:
        await visit.go(page(entry.name))
        assert await visit.charts() == {}, entry.title


@pytest.mark.usefixtures("some_of_everything")
async def test_no_page_is_wider_than_a_phone(enter: Enter, boss: User) -> None:
    visit = await enter(boss, viewport={"width": 400, "height": 800})
    for name, path in (await in_database_thread(pages)()).items():
        await visit.go(path)
        assert await visit.page.evaluate("document.documentElement.scrollWidth") <= 400, name
