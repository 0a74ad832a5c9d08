"""Pictures of the pages for the README, of the demo's data: `python -m tests.browser.screenshots`.

The demo is run first if its database is not there. What pages say of "now" is as old as the demo: run it anew for new
pictures.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import django

from project.serve import DATABASE, ROOT, USER

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
os.environ.update(DEBUG="1", DATABASE_URL=f"sqlite:///{DATABASE}", LOG_LEVEL="WARNING")
django.setup()

from django.contrib.auth import get_user_model  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from playwright.async_api import Browser  # noqa: E402

from routing.models import DecisionRecord  # noqa: E402
from tests.browser import chromium  # noqa: E402
from tests.browser.visits import Visit, page  # noqa: E402
from tests.servers.server import servers  # noqa: E402

FOLDER = ROOT / "docs"
WIDTH, MARGIN = 1280, 4

MORE_ROOM = "localStorage.setItem('django.admin.navSidebarIsOpen', 'false')"
"""Fold the list of models away, as its arrow does."""


class Picture(NamedTuple):
    """A picture of a page, from its top to the end of the element that `last` selects."""

    name: str
    address: str
    last: str


def main() -> int:
    """Take the pictures; return 2 if there is nothing to take them with."""
    path = chromium.find()
    if path is None:
        sys.stderr.write(f"{chromium.MISSING}\n")
        return 2
    if not DATABASE.exists():
        subprocess.run([sys.executable, "-m", "project.demo"], cwd=ROOT, check=True)
    user, _ = get_user_model().objects.get_or_create(
        username=USER, defaults={"is_staff": True, "is_superuser": True, "is_active": True}
    )
    pictures = choose()
    with servers(1) as (server,):
        asyncio.run(take_all(path, f"http://127.0.0.1:{server.port}", user, pictures))
    for picture in pictures:
        file = FOLDER / f"{picture.name}.png"
        sys.stdout.write(f"{file.relative_to(ROOT)}: {file.stat().st_size / 1000:.0f} kB\n")
    return 0


def choose() -> list[Picture]:
    """Return the pictures to take. The decision is a refusal that had several reasons."""
    refused = DecisionRecord.objects.filter(miner="", candidates__isnull=False).order_by("-at")
    decision = max(refused, key=lambda record: (len(record.counts), record.at))
    return [
        Picture("status", page("routing_status"), "figure:has(#decisions-canvas)"),
        Picture("incidents", page("routing_minerincident_changelist"), "#result_list tbody tr:nth-child(6)"),
        Picture(
            "reliability",
            f"{page('routing_board')}?executor_class=always_on.llm.a6000&seconds=120",
            ".table-wide tbody tr:nth-child(14)",
        ),
        Picture("decision", page("routing_decisionrecord_change", decision.pk), ".table-wide tbody tr:nth-child(8)"),
        Picture("ledger", page("routing_ledger"), "figure:has(#most-spent-canvas)"),
    ]


async def take_all(path: str, address: str, user: User, pictures: list[Picture]) -> None:
    """Take pictures of the pages as a user sees them in the light theme."""
    async with chromium.launched(path) as browser:
        for picture in pictures:
            await take(browser, address, user, picture)


async def take(browser: Browser, address: str, user: User, picture: Picture) -> None:
    """Take one, and raise RuntimeError if anything goes wrong on the page."""
    visit = await Visit.begin(browser, address, user, viewport={"width": WIDTH, "height": 1000})
    await visit.page.add_init_script(MORE_ROOM)
    await visit.page.goto(picture.address)
    box = await visit.page.locator(picture.last).bounding_box()
    assert box is not None
    await visit.page.set_viewport_size({"width": WIDTH, "height": round(box["y"] + box["height"]) + MARGIN})
    await visit.page.screenshot(path=Path(FOLDER, f"{picture.name}.png"))
    await visit.page.context.close()
    if visit.troubles:
        raise RuntimeError(f"{picture.address}: {visit.troubles}")


if __name__ == "__main__":
    sys.exit(main())
