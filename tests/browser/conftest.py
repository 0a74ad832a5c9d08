from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
from django.contrib.auth.models import User
from django.db import connection
from playwright.async_api import Browser
from pytest_django import Settings

from tests.browser import chromium, scene
from tests.browser.visits import Visit
from tests.servers.server import servers

Enter = Callable[..., Awaitable[Visit]]


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """Return where Chromium is. Without one these tests are skipped, but not where they are meant to be run.

    One database is enough for them: what pages say is tested on both, without a browser.
    """
    if connection.vendor != "postgresql":
        pytest.skip("pages are looked at on PostgreSQL")
    if path := chromium.find():
        return path
    if os.environ.get("CI"):
        pytest.fail(chromium.MISSING)
    pytest.skip(chromium.MISSING)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(chromium_path: str) -> AsyncIterator[Browser]:
    async with chromium.launched(chromium_path) as browser:
        yield browser


@pytest.fixture(scope="session")
def address(chromium_path: str, django_db_setup: None) -> Iterator[str]:
    """Serve the test's database as in production."""
    with servers(1, DJANGO_SETTINGS_MODULE="tests.browser.settings") as (server,):
        yield f"http://127.0.0.1:{server.port}"
        # Django logs a refusal with a traceback, but as a warning.
        assert [trouble for trouble in server.troubles if not trouble.startswith("Traceback")] == []


@pytest.fixture
def some_of_everything(chromium_path: str, ledger_clean_at_the_end: None, settings: Settings) -> None:
    settings.ROUTING_DECISIONS_SAMPLE = 1
    scene.fill()


@pytest.fixture
def boss(chromium_path: str, transactional_db: None) -> User:
    return User.objects.create_superuser("boss")


@pytest_asyncio.fixture(loop_scope="session")
async def enter(browser: Browser, address: str, transactional_db: None) -> AsyncIterator[Enter]:
    """Return what opens the site for a user; in the end nothing may have gone wrong on any page."""
    visits = []
    async with AsyncExitStack() as stack:

        async def begin(user: User | None = None, **options: Any) -> Visit:
            visit = await Visit.begin(browser, address, user, **options)
            stack.push_async_callback(visit.page.context.close)
            visits.append(visit)
            return visit

        yield begin
    assert [trouble for visit in visits for trouble in visit.troubles] == []


@pytest_asyncio.fixture(loop_scope="session")
async def visit(enter: Enter, boss: User, some_of_everything: None) -> Visit:
    """The site with some of everything, as it is to whoever may do all."""
    return await enter(boss)
