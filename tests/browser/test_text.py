"""What others may write, hotkeys, reasons and names of users, is shown as text wherever it is, whatever it is.

The browser is told to ignore the Content-Security-Policy here: it alone would stop what should not be there at all.
"""

from __future__ import annotations

import re
from itertools import cycle

import pytest
import pytest_asyncio
from django.contrib.auth.models import User
from playwright.async_api import expect

from allowance.plumbing.threads import in_database_thread
from tests.browser.addresses import pages
from tests.browser.conftest import Enter
from tests.browser.scene import NASTY, REASON, USER
from tests.browser.visits import Visit, page

pytestmark = pytest.mark.asyncio(loop_scope="session")

FOREIGN = """() => [...document.querySelectorAll("*")].filter(element =>
    element.matches("[onerror], [onload], [onmouseover], [autofocus]:not(#searchbar), img[src=x]")
    || element.matches("script:not([type='application/json'])") && element.textContent.trim()
).map(element => element.outerHTML)"""
"""Elements that only a hotkey, a reason or a name could have made: our own pages have no script but in files."""

AT = """([id, i]) => {
    const canvas = document.getElementById(id + "-canvas"), box = canvas.getBoundingClientRect();
    const {x, y} = Chart.getChart(canvas).getDatasetMeta(0).data[i].getCenterPoint();
    return [box.x + x, box.y + y];
}"""

TOOLTIP = "id => Chart.getChart(document.getElementById(id + '-canvas')).tooltip.title"


@pytest.fixture
def somebody(transactional_db: None) -> User:
    return User.objects.create_superuser(USER)


@pytest_asyncio.fixture(loop_scope="session")
async def unguarded(enter: Enter, somebody: User, some_of_everything: None) -> Visit:
    return await enter(somebody, bypass_csp=True)


async def test_no_page_takes_it_for_html(unguarded: Visit) -> None:
    for name, path in (await in_database_thread(pages)()).items():
        await unguarded.go(path)
        assert await unguarded.page.evaluate(FOREIGN) == [], name
        await expect(unguarded.page.locator("#user-tools")).to_contain_text(re.compile(re.escape(USER), re.IGNORECASE))
        assert unguarded.troubles == [], name


async def test_lists_show_it_and_lead_to_the_miner_s_page(unguarded: Visit) -> None:
    lists = [page(name) for name in ("routing_minerincident_changelist", "routing_board", "routing_ledger")]
    for address in lists:
        await unguarded.go(address)
        assert set(NASTY) <= set(await unguarded.page.locator("#content a").all_inner_texts()), address
    for hotkey, address in zip(NASTY, cycle(lists), strict=False):
        await unguarded.go(address)
        await unguarded.follow(unguarded.page.get_by_role("link", name=hotkey, exact=True).first)
        await expect(unguarded.page.get_by_role("heading", level=1)).to_have_text(hotkey)
        assert await unguarded.page.title() == f"{hotkey} | Miner router"
        await expect(unguarded.page.locator(".breadcrumbs")).to_contain_text(hotkey)
        await unguarded.follow(unguarded.page.get_by_role("link", name="incidents", exact=True))
        assert set(await unguarded.column("hotkey")) == {hotkey}


async def test_charts_have_it_in_their_data_tables_and_tooltips(unguarded: Visit) -> None:
    await unguarded.go(page("routing_minerincident_changelist"))
    chart = (await unguarded.charts())["worst-miners"]
    assert set(NASTY) <= {label.split()[0] for label in chart.labels}
    assert [row[0] for row in chart.table] == chart.labels
    canvas = unguarded.page.locator("#worst-miners-canvas")
    await canvas.scroll_into_view_if_needed()
    for i, label in enumerate(chart.labels):
        await unguarded.page.mouse.move(*await unguarded.page.evaluate(AT, ["worst-miners", i]))
        await unguarded.page.wait_for_function(f"id => ({TOOLTIP})(id)?.[0] !== undefined", arg="worst-miners")
        assert await unguarded.page.evaluate(TOOLTIP, "worst-miners") == [label]


async def test_a_voided_incident_shows_who_did_it_and_why(unguarded: Visit) -> None:
    await unguarded.go((await in_database_thread(pages)())["a voided incident"])
    rows = unguarded.page.locator(".form-row")
    await expect(rows.filter(has_text="Voided by")).to_contain_text(USER)
    await expect(rows.filter(has_text="Void reason")).to_contain_text(REASON)
    await expect(unguarded.page.locator("#content h2").first).to_have_text(f"MINER_JOB_FAILED by {NASTY[1]}")


async def test_forms_give_back_what_was_put_in(unguarded: Visit) -> None:
    await unguarded.go(page("routing_minerincident_changelist"))
    for hotkey in NASTY:
        await unguarded.page.get_by_label("Miner", exact=True).fill(hotkey)
        await unguarded.follow(unguarded.page.get_by_role("button", name="Show"))
        await expect(unguarded.page.get_by_label("Miner", exact=True)).to_have_value(hotkey)
    await unguarded.go(page("routing_board"))
    await unguarded.page.locator("[name=exclude]").fill(" ".join(NASTY))
    await unguarded.follow(unguarded.page.get_by_role("button", name="Rank the miners"))
    await expect(unguarded.page.locator("[name=exclude]")).to_have_value(" ".join(NASTY))
    excluded = await unguarded.page.locator("tr", has_text="excluded by the caller").get_by_role("rowheader").all()
    assert {await cell.inner_text() for cell in excluded} == set(NASTY)
