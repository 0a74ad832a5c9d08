"""Somebody with a browser on the site: where they go, what they see, and all that goes wrong meanwhile."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Dialog,
    Locator,
    Page,
    Request,
    Response,
    expect,
)

from allowance.plumbing.threads import in_database_thread
from tests.browser.settings import POLICY
from tests.programs import DEADLINE

NO_ANSWER = "Failed to load resource"
"""With this the console repeats what an answer's status said, which we heard already."""

DRAWN = """() => Object.fromEntries([...document.querySelectorAll("figure.chart canvas")].map(canvas => {
    const {data} = Chart.getChart(canvas);
    const rows = canvas.closest("figure").querySelectorAll("tbody tr");
    return [canvas.id.replace(/-canvas$/, ""), {
        labels: data.labels,
        series: Object.fromEntries(data.datasets.map(set => [set.label, set.data])),
        colors: [...new Set(data.datasets.flatMap(set => set.backgroundColor))],
        heads: [...canvas.closest("figure").querySelectorAll("thead th")].map(head => head.textContent),
        table: [...rows].map(row => [...row.children].map(cell => cell.textContent)),
    }];
}))"""

PIXELS = """id => {
    const canvas = document.getElementById(id + "-canvas"), chart = Chart.getChart(canvas), counts = {};
    const {left, top, width, height} = chart.chartArea;
    const copy = new OffscreenCanvas(width, height).getContext("2d");
    copy.drawImage(canvas, -left, -top);
    const {data} = copy.getImageData(0, 0, width, height);
    for (const color of new Set(chart.data.datasets.flatMap(set => set.backgroundColor))) {
        const channels = [1, 3, 5].map(at => parseInt(color.slice(at, at + 2), 16));
        for (let i = 0; i < data.length; i += 4) {
            if (channels.every((channel, at) => Math.abs(channel - data[i + at]) <= NEAR)) {
                counts[color] = (counts[color] ?? 0) + data[i + 3] / 255;
            }
        }
    }
    return counts;
}""".replace("NEAR", "8")
"""The area of each colour. The blurred edges of a bar count by how far they are covered, else narrow bars lose most."""


class Drawn(NamedTuple):
    """A chart as the browser has drawn it, and the table beside it."""

    labels: list[str]
    series: dict[str, list[float]]
    colors: list[str]
    heads: list[str]
    table: list[list[str]]

    @property
    def numbers(self) -> dict[str, tuple[float, ...]]:
        """The numbers of all series by label, without labels that have none."""
        rows = zip(self.labels, zip(*self.series.values(), strict=True), strict=True)
        return {label: numbers for label, numbers in rows if any(numbers)}

    @property
    def totals(self) -> list[float]:
        """The sum of each series; of a chart of one, its numbers."""
        values = list(self.series.values())
        return values[0] if len(values) == 1 else [sum(series) for series in values]


class Visit:
    """A page of the browser, in a context of its own. It is in `troubles` what nobody wants to see."""

    def __init__(self, context: BrowserContext, page: Page, address: str) -> None:
        self.page = page
        self.address = address
        self.troubles: list[str] = []
        self.expected: set[str] = set()
        context.on("console", self._hear)
        context.on("request", self._ask)
        context.on("response", self._answer)
        context.on("requestfailed", self._fail)
        context.on("weberror", lambda error: self.troubles.append(f"error: {error.error}"))
        context.on("dialog", self._dismiss)

    @classmethod
    async def begin(cls, browser: Browser, address: str, user: User | None, **options: Any) -> Visit:
        """Open a page for a user who is logged in, or for nobody; `options` are of Playwright's context."""
        context = await browser.new_context(base_url=address, **{"color_scheme": "light", **options})
        context.set_default_timeout(DEADLINE * 1000)
        expect.set_options(DEADLINE * 1000)
        if user is not None:
            await log_in(context, address, user)
        return cls(context, await context.new_page(), address)

    async def go(self, path: str, status: int = 200) -> None:
        """Go to an address, which must answer so."""
        if status != 200:
            self.expected.add(self.address + path)
        response = await self.page.goto(path)
        assert response is not None
        assert response.status == status, (path, response.status)
        assert response.headers["content-security-policy"] == POLICY

    async def follow(self, link: Locator) -> None:
        """Click on something that leads to another page, and wait until that is there."""
        async with self.page.expect_navigation():
            await link.click()

    async def rows(self, table: str) -> list[list[str]]:
        """Return the texts of the cells of a table's body."""
        found: list[list[str]] = await self.page.locator(f"{table} tbody tr").evaluate_all(
            "rows => rows.map(row => [...row.children].map(cell => cell.innerText.trim()))"
        )
        return found

    async def column(self, name: str) -> list[str]:
        """Return the texts of a column of a list of the admin."""
        return await self.page.locator(f"#result_list tbody .field-{name}").all_inner_texts()

    async def charts(self) -> dict[str, Drawn]:
        """Return the charts of the page by their ids."""
        return {name: Drawn(**chart) for name, chart in (await self.page.evaluate(DRAWN)).items()}

    async def pixels(self, chart: str) -> Counter[str]:
        """Return how many pixels each colour covers in a chart, within its axes: not counting the legend."""
        return Counter(await self.page.evaluate(PIXELS, chart))

    @property
    def menu(self) -> Locator:
        """The links of the menu."""
        return self.page.locator(".operators-menu a")

    def _hear(self, message: ConsoleMessage) -> None:
        if not message.text.startswith(NO_ANSWER):
            self.troubles.append(f"{message.type} in the console: {message.text}")

    def _ask(self, request: Request) -> None:
        if not request.url.startswith(f"{self.address}/"):
            self.troubles.append(f"request elsewhere: {request.url:.200}")

    def _fail(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # that is a page left, or a file saved, before all of it was there
            self.troubles.append(f"failed: {request.url}: {request.failure}")

    def _answer(self, response: Response) -> None:
        if response.status >= 400 and response.url not in self.expected:
            self.troubles.append(f"{response.status}: {response.url}")

    async def _dismiss(self, dialog: Dialog) -> None:
        self.troubles.append(f"dialog: {dialog.message}")
        await dialog.dismiss()


async def log_in(context: BrowserContext, address: str, user: User) -> None:
    """Let a browser have a session of the user's."""
    session = await in_database_thread(_session)(user)
    await context.add_cookies([{"name": "sessionid", "value": session, "url": address}])


def _session(user: User) -> str:
    client = Client()
    client.force_login(user)
    return client.cookies["sessionid"].value


def page(name: str, *arguments: object) -> str:
    """Return the address of a page of the admin."""
    return reverse(f"admin:{name}", args=arguments)
