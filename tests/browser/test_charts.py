"""What charts draw: the numbers that the database has, in the colours of the theme, with a table that says the same."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Callable

import pytest
from django.contrib.admin.utils import quote
from django.db.models import F
from django.utils import timezone
from playwright.async_api import Position, expect

from allowance.models import Account, Block, Reservation, ReservationState
from allowance.plumbing.threads import in_database_thread
from routing.models import DecisionRecord, MinerIncident
from routing.types import Outcome
from tests.browser.scene import DAY, FAILED, HORDE, LONG, MINERS, NASTY, REJECTED
from tests.browser.visits import Drawn, Visit, page
from tests.ledgers import CLASS

pytestmark = pytest.mark.asyncio(loop_scope="session")

INCIDENTS = page("routing_minerincident_changelist")
STATUS, LEDGER = page("routing_status"), page("routing_ledger")
TYPES = {REJECTED: "rejected the job", FAILED: "failed the job", HORDE: "its horde failed"}

LIGHT = ["#2f6fab", "#c2571a", "#2e7d4f", "#8e4ba0"]
DARK = ["#6fb1ec", "#f09a5b", "#6cc592", "#cf96e0"]

Numbers = dict[str, tuple[float, ...]]


def by_label(rows: Counter[tuple[str, str]], series: list[str]) -> Numbers:
    """Return counts by label and series as a chart has them."""
    return {label: tuple(rows[label, name] for name in series) for label, _ in rows}


def incidents(within: dt.timedelta, label: str) -> Numbers:
    """Return the incidents that count, by when they happened and type."""
    rows = MinerIncident.objects.filter(voided_at=None, timestamp__gt=timezone.now() - within)
    return by_label(Counter((f"{row.timestamp:{label}}", row.type) for row in rows), list(TYPES))


def by_miner_per_executor() -> Numbers:
    """Return how many incidents of a week that count each miner has in a class for an executor of its."""
    rows = MinerIncident.objects.filter(voided_at=None, timestamp__gt=timezone.now() - 7 * DAY)
    counts = Counter((row.hotkey_ss58address, row.executor_class, row.executors) for row in rows)
    numbers = {(hotkey, of): round(number / executors, 3) for (hotkey, of, executors), number in counts.items()}
    return {f"{hotkey} {of}": (number,) for (hotkey, of), number in numbers.items()}


def decisions() -> Numbers:
    rows = DecisionRecord.objects.all()
    outcomes = [Outcome.ROUTED, "NOT_ENOUGH_ALLOWANCE", "ALL_MINERS_BUSY"]
    return by_label(Counter((f"{row.at:%H}:00", row.outcome) for row in rows), outcomes)


def ends() -> Numbers:
    """Return how reservations ended by the hour; nobody has swept those that expired."""
    now = timezone.now()
    ended = Counter((f"{row.ended_at:%a %H}:00", row.state) for row in Reservation.objects.exclude(ended_at=None))
    expired = Reservation.objects.filter(state=ReservationState.HELD, expires_at__lte=now)
    ended.update((f"{row.expires_at:%a %H}:00", ReservationState.EXPIRED.value) for row in expired)
    return by_label(ended, [state.value for state in (ReservationState.RELEASED, ReservationState.EXPIRED)] + ["spent"])


def amounts(*hotkeys: str) -> list[float]:
    """Return the seconds of miners that are free, held, spent and voided, from blocks and reservations alone."""
    ns = {block.number: block.ns or 0 for block in Block.objects.all()}
    executors = dict(Account.objects.filter(miner__in=hotkeys).values_list("miner", "executors"))
    earned = sum(sum(ns.values()) * number for number in executors.values())
    taken: Counter[str] = Counter()
    for row in Reservation.objects.filter(account__miner__in=hotkeys).annotate(miner=F("account__miner")):
        if row.state == "spent" or (row.state == "held" and row.expires_at > timezone.now()):
            taken[row.state] += sum(ns[block] for block in row.blocks) * executors[row.miner]
    parts = (earned - taken["held"] - taken["spent"], taken["held"], taken["spent"], 0)
    return [round(part / 1e9, 1) for part in parts]


async def ask(question: Callable[[], Numbers]) -> Numbers:
    return await in_database_thread(question)()


def the_table_says_the_same(chart: Drawn) -> None:
    assert chart.heads == list(chart.series)
    assert [row[0] for row in chart.table] == chart.labels
    said = [[float(number) for number in row[1:]] for row in chart.table]
    assert said == [list(numbers) for numbers in zip(*chart.series.values(), strict=True)]


async def is_drawn(visit: Visit, name: str, colors: list[str]) -> None:
    """Insist that a chart has its colours, each in proportion to what it stands for."""
    chart, pixels = (await visit.charts())[name], await visit.pixels(name)
    assert chart.colors == colors[: len(chart.colors)], name
    if len(chart.colors) > 1:
        seen = [pixels[color] for color in chart.colors]
        for share, total in zip(seen, chart.totals, strict=True):
            assert share / sum(seen) == pytest.approx(total / sum(chart.totals), abs=0.03), name
    else:
        assert pixels[chart.colors[0]] > 100, name


@pytest.mark.parametrize(
    ("time", "within", "label"),
    [("7d", 7 * DAY, "%m-%d %H:00"), ("24h", DAY, "%m-%d %H:00"), ("30d", 30 * DAY, "%Y-%m-%d")],
)
async def test_incidents_by_type_over_time(time: str, within: dt.timedelta, label: str, visit: Visit) -> None:
    await visit.go(f"{INCIDENTS}?time={time}")
    charts = await visit.charts()
    over_time, shares = charts["incidents-over-time"], charts["incidents-by-type"]
    expected = in_database_thread(incidents)
    assert over_time.numbers == await expected(within, label)
    assert list(over_time.series) == list(TYPES.values()) == shares.labels
    sums = [sum(numbers) for numbers in zip(*(await expected(within, label)).values(), strict=True)]
    assert shares.series == {"incidents": sums}
    for name, chart in charts.items():
        the_table_says_the_same(chart)
        await is_drawn(visit, name, LIGHT)


async def test_the_worst_miners_per_executor_are_in_front(visit: Visit) -> None:
    await visit.go(INCIDENTS)
    chart = (await visit.charts())["worst-miners"]
    assert chart.numbers == await ask(by_miner_per_executor)
    assert chart.labels[:2] == [f"{NASTY[0]} {CLASS}", f"{NASTY[3]} {CLASS}"]
    assert list(chart.numbers.values()) == sorted(chart.numbers.values(), reverse=True)


@pytest.mark.parametrize("x", [2, 0.6], ids=["its name", "its bar"])
async def test_a_bar_leads_to_its_miner_as_its_row_does(x: float, visit: Visit) -> None:
    await visit.go(INCIDENTS)
    canvas = visit.page.locator("#worst-miners-canvas")
    bar = await canvas.evaluate(
        "canvas => { const {x, y, base} = Chart.getChart(canvas).getDatasetMeta(0).data[1]; return {x, y, base}; }"
    )
    position: Position = {"x": x if x > 1 else bar["base"] + x * (bar["x"] - bar["base"]), "y": bar["y"]}
    await canvas.hover(position=position)
    await expect(canvas).to_have_css("cursor", "pointer")
    await canvas.hover(position={"x": 2, "y": 2})
    await expect(canvas).to_have_css("cursor", "default")
    async with visit.page.expect_navigation():
        await canvas.click(position=position)
    await expect(visit.page).to_have_url(visit.address + page("routing_miner", quote(NASTY[3])))
    await visit.page.go_back()
    figure = visit.page.locator("figure", has=canvas)
    await figure.get_by_text("The numbers").click()
    await visit.follow(figure.get_by_role("link", name=f"{NASTY[3]} {CLASS}", exact=True))
    await expect(visit.page).to_have_url(visit.address + page("routing_miner", quote(NASTY[3])))


async def test_decisions_by_hour_and_outcome(visit: Visit) -> None:
    await visit.go(STATUS)
    charts = await visit.charts()
    assert charts["decisions"].numbers == await ask(decisions)
    assert list(charts["decisions"].series) == ["routed", "not enough allowance", "all miners busy"]
    assert charts["refusals"].numbers == {"not enough allowance": (2,), "all miners busy": (3,)}
    assert charts["most-jobs"].numbers == {"anna": (1,)}
    assert charts["most-seconds"].numbers == {"anna": (30,)}
    for name, chart in charts.items():
        the_table_says_the_same(chart)
        await is_drawn(visit, name, LIGHT)


async def test_ends_of_reservations_by_hour_and_what_became_of_the_allowance(visit: Visit) -> None:
    await visit.go(LEDGER)
    charts = await visit.charts()
    assert charts["ended-by-hour"].numbers == await ask(ends)
    assert list(charts["ended-by-hour"].series) == ["Released", "Expired", "Spent"]
    expected = in_database_thread(amounts)
    assert charts["allowance-by-fate"].series == {"seconds": await expected(*MINERS)}
    most = charts["most-spent"]
    assert sorted(most.labels) == sorted((*NASTY, LONG))
    for hotkey, numbers in most.numbers.items():
        assert list(numbers) == await expected(hotkey)
    for name, chart in charts.items():
        the_table_says_the_same(chart)
        await is_drawn(visit, name, LIGHT)


async def test_a_miner_s_strip_has_each_block_of_the_window(visit: Visit) -> None:
    await visit.go(page("routing_miner", quote(NASTY[0])))
    rects = await visit.page.locator("figure.strip rect").evaluate_all(
        "all => all.map(r => [r.classList[0], +r.getAttribute('x'), +r.getAttribute('width'), r.getBBox().width])"
    )
    box = await visit.page.locator("figure.strip svg").get_attribute("viewBox")
    end = 0
    for _, x, width, painted in rects:
        assert (x, painted) == (end, width)
        end += width
    assert box == f"0 0 {end} 20"
    widths: Counter[str] = Counter()
    for state, _, width, _ in rects:
        widths[state] += width
    blocks = await in_database_thread(Block.objects.count)()
    assert sum(widths.values()) == blocks
    assert widths["spent"] == 2
    assert widths["held"] == 2
    assert widths["none"] == 1  # how long the newest lasts is not known yet
    said = await visit.page.locator("figure.strip svg").get_attribute("aria-label")
    free, held, spent, voided = await in_database_thread(amounts)(NASTY[0])
    assert f"{free} s free, {held} s held, {spent} s spent, {float(voided)} s voided, 1 block gave nothing" in str(said)
    assert (await visit.charts())["incidents"].numbers == await in_database_thread(of_miner)(NASTY[0])
    await is_drawn(visit, "incidents", LIGHT)


def of_miner(hotkey: str) -> Numbers:
    rows = MinerIncident.objects.filter(hotkey_ss58address=hotkey, voided_at=None)
    return by_label(Counter((f"{row.timestamp:%Y-%m-%d}", row.type) for row in rows), list(TYPES))


async def test_another_theme_draws_the_charts_in_its_colours(visit: Visit) -> None:
    await visit.go(INCIDENTS)
    before = await visit.charts()
    for name in before:
        await is_drawn(visit, name, LIGHT)
    await visit.page.get_by_role("button", name=re.compile("Toggle theme")).click()
    await expect(visit.page.locator("html")).to_have_attribute("data-theme", "dark")
    after = await visit.charts()
    assert {name: chart.numbers for name, chart in after.items()} == {n: c.numbers for n, c in before.items()}
    for name in after:
        await is_drawn(visit, name, DARK)
        assert not (await visit.pixels(name)).keys() & set(LIGHT)
    await visit.go(LEDGER)  # the choice stays
    for name in await visit.charts():
        await is_drawn(visit, name, DARK)


async def test_the_system_s_dark_theme_draws_the_charts_in_its_colours(visit: Visit) -> None:
    await visit.go(INCIDENTS)
    await visit.page.emulate_media(color_scheme="dark")
    for name in await visit.charts():
        await is_drawn(visit, name, DARK)
