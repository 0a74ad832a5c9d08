"""The list of incidents: what its charts count, what its filters and its search leave, where its rows lead."""

from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.contrib.admin.utils import quote
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from django.utils.html import escape

from allowance.plumbing.buckets import UtcDay, UtcHour
from routing.models import DecisionRecord, MinerIncident
from routing.pages import SEE_INCIDENTS, SEE_MINER, incident_counts
from routing.pages.incident_counts import Stretch
from tests.clock import DAY, HOUR, TICK
from tests.factories import OTHER_CLASS
from tests.ledgers import CLASS, FIRST_BLOCK, fill_ledger
from tests.pages import shown
from tests.rows import FAILED, HORDE, REJECTED, decided, declare, report
from tests.visitors import clerk

NOW = dt.datetime(2026, 3, 1, 12, 30, tzinfo=dt.UTC)
pytestmark = [pytest.mark.django_db, pytest.mark.time_machine(NOW, tick=False)]
HTML = "<script>alert(1)</script>"
LIST = "routing_minerincident_changelist"
ADDRESS = reverse(f"admin:{LIST}")
CSV = reverse("admin:routing_minerincident_csv")


def incident(miner: str = "anna", ago: dt.timedelta = HOUR, **fields: Any) -> MinerIncident:
    if fields.pop("voided", False):
        fields = {"voided_at": NOW, "voided_by": "boss", "void_reason": "no fault of its", **fields}
    usual = {"type": FAILED, "executor_class": CLASS, "job_uuid": uuid4()}
    return MinerIncident.objects.create(hotkey_ss58address=miner, timestamp=NOW - ago, **{**usual, **fields})


def listed(client: Client, **query: str) -> Any:
    response = client.get(ADDRESS, query)
    assert response.status_code == 200, (query, response.headers)
    return response.context["cl"]


def hotkeys(client: Client, **query: str) -> list[str]:
    return [row.hotkey_ss58address for row in listed(client, **query).result_list]


def charts(client: Client, **query: str) -> dict[str, Any]:
    return {chart.id: chart for chart in listed(client, **query).charts()}


def drawn(client: Client, chart: str, **query: str) -> dict[str, Any]:
    """Return the numbers of a chart that are not 0, by label; a tuple where there are several series."""
    rows = charts(client, **query)[chart].rows
    return {label: numbers[0] if len(numbers) == 1 else tuple(numbers) for label, numbers, _ in rows if any(numbers)}


@pytest.mark.parametrize(("bucket", "begins"), [(UtcHour, HOUR), (UtcDay, DAY)])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/St_Johns"])
def test_a_bucket_begins_on_the_hour_or_at_midnight_of_utc(
    bucket: type[UtcHour], begins: dt.timedelta, zone: str
) -> None:
    midnight = dt.datetime(2026, 2, 28, tzinfo=dt.UTC)
    for at in (midnight, midnight + TICK, midnight + begins - TICK, midnight + begins):
        incident(ago=NOW - at)
    with timezone.override(zone):
        found = MinerIncident.objects.order_by("timestamp").values_list(bucket("timestamp"), flat=True)
        assert list(found) == [midnight] * 3 + [midnight + begins]


def test_incidents_are_counted_by_hour_and_type(admin_client: Client) -> None:
    for ago in (0 * HOUR, HOUR / 2, HOUR, 23 * HOUR, 24 * HOUR):
        incident(ago=ago)
    incident(ago=HOUR, type=REJECTED)
    incident(ago=HOUR, type=HORDE, voided=True)
    chart = charts(admin_client, time="24h")["incidents-over-time"]
    assert (len(chart.labels), chart.labels[0], chart.labels[-1]) == (24, "02-28 13:00", "03-01 12:00")
    assert list(chart.series) == ["rejected the job", "failed the job", "its horde failed"]
    assert drawn(admin_client, "incidents-over-time", time="24h") == {
        "03-01 12:00": (0, 2, 0),
        "03-01 11:00": (1, 1, 0),
        "02-28 13:00": (0, 1, 0),
    }


@pytest.mark.parametrize(("time", "days"), [("30d", 30), ("90d", 90), ("365d", 365), ("any", 365)])
def test_incidents_are_counted_by_day(time: str, days: int, admin_client: Client) -> None:
    for ago in (0 * DAY, DAY, (days - 1) * DAY, days * DAY):
        incident(ago=ago)
    first = f"{NOW - (days - 1) * DAY:%Y-%m-%d}"
    found = drawn(admin_client, "incidents-over-time", time=time)
    assert found == {"2026-03-01": (0, 1, 0), "2026-02-28": (0, 1, 0), first: (0, 1, 0)}
    assert len(charts(admin_client, time=time)["incidents-over-time"].labels) == days


def test_an_incident_that_a_faster_clock_dated_later_counts_in_the_last_step(admin_client: Client) -> None:
    incident(ago=-2 * HOUR)
    assert drawn(admin_client, "incidents-over-time", time="24h") == {"03-01 12:00": (0, 1, 0)}


def test_shares_are_of_the_same_incidents(admin_client: Client) -> None:
    for kind, number in ((REJECTED, 3), (FAILED, 1)):
        for _ in range(number):
            incident(type=kind)
    incident(type=HORDE, ago=8 * DAY)
    assert drawn(admin_client, "incidents-by-type") == {"rejected the job": 3, "failed the job": 1}
    assert drawn(admin_client, "incidents-by-type", type=FAILED) == {"failed the job": 1}


def test_the_worst_miners_have_the_most_incidents_per_executor_of_a_class(admin_client: Client) -> None:
    """Each incident counts by the executors of its time: two of four, then one of one, come to 1.5."""
    for executors, number in ((4, 2), (1, 1)):
        for _ in range(number):
            incident("many", executors=executors)
    for _ in range(2):
        incident("zero", executors=0)
    incident("many", executors=2, executor_class=OTHER_CLASS)
    incident("unknown")
    incident("unknown", voided=True)
    there = {f"zero {CLASS}": 2.0, f"many {CLASS}": 1.5, f"unknown {CLASS}": 1.0}
    elsewhere = {f"many {OTHER_CLASS}": 0.5}
    assert drawn(admin_client, "worst-miners") == there | elsewhere
    assert drawn(admin_client, "worst-miners", **{"class": CLASS}) == there
    assert drawn(admin_client, "worst-miners", **{"class": OTHER_CLASS}) == elsewhere
    assert list(charts(admin_client)["worst-miners"].labels) == [*there, *elsewhere]
    shown = [line for line in b"".join(admin_client.get(CSV)).decode().splitlines() if "many" in line]
    executors_told = sorted((line.split(",")[5], int(line.split(",")[6])) for line in shown)
    assert executors_told == [(CLASS, 1), (CLASS, 4), (CLASS, 4), (OTHER_CLASS, 2)]


def test_the_worst_miners_have_the_scores_that_the_board_shows(admin_client: Client) -> None:
    """A miner with incidents of other classes only, whose score is 0, is not among those of the class."""
    fill_ledger("fine", "bad", "worse", executors=4)
    for miner, number, executor_class in (("bad", 1, CLASS), ("worse", 3, CLASS), ("fine", 9, OTHER_CLASS)):
        for _ in range(number):
            report(miner, executor_class=executor_class)
    board = admin_client.get(reverse("admin:routing_board"), {"executor_class": CLASS})
    scores = {f"{c.hotkey} {CLASS}": -c.score for c in board.context["candidates"] if c.score}
    assert scores == {f"bad {CLASS}": 0.25, f"worse {CLASS}": 0.75}
    assert drawn(admin_client, "worst-miners", time="24h", **{"class": CLASS}) == scores


def test_an_incident_keeps_the_executors_that_were_declared_when_it_was_reported(admin_client: Client) -> None:
    fill_ledger("anna", executors=4)
    told = report("anna")
    declare({"anna": 1}, FIRST_BLOCK + 1)
    report("anna", told.job_uuid)  # again: it stays as it was
    report("anna")
    report("anna", executor_class=OTHER_CLASS)
    assert list(MinerIncident.objects.order_by("pk").values_list("executors", flat=True)) == [4, 1, 0]
    assert drawn(admin_client, "worst-miners") == {f"anna {CLASS}": 1.25, f"anna {OTHER_CLASS}": 1.0}


def test_bars_and_rows_of_miners_lead_to_their_pages() -> None:
    incident(HTML)
    leads = reverse("admin:routing_miner", args=[quote(HTML)])
    client = clerk(*SEE_MINER)
    assert list(charts(client)["worst-miners"].links) == [leads]
    label = escape(f"{HTML} {CLASS}")
    assert f'<a href="{escape(leads)}">{label}</a></th>' in shown(client, LIST)
    client = clerk(*SEE_INCIDENTS)
    assert list(charts(client)["worst-miners"].links) == []
    assert f'<th scope="row">{label}</th>' in shown(client, LIST)


def test_no_more_than_fifteen_miners_are_the_worst(admin_client: Client) -> None:
    for number in range(20):
        incident(f"miner_{number:02}")
    assert list(charts(admin_client)["worst-miners"].labels) == [f"miner_{n:02} {CLASS}" for n in range(15)]


def test_a_chart_of_nothing_says_so(admin_client: Client) -> None:
    content = shown(admin_client, LIST)
    assert content.count("Nothing to show.") == 3


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ({}, {"a", "b", "c", "void"}),
        ({"time": ""}, {"a", "b", "c", "void"}),
        ({"time": "any"}, {"a", "b", "c", "void", "old"}),
        ({"time": "24h"}, {"a", "b", "void"}),
        ({"class": OTHER_CLASS}, {"b"}),
        ({"type": REJECTED}, {"c"}),
        ({"miner": "a"}, {"a"}),
        ({"miner": "old"}, set()),
        ({"miner": "nobody"}, set()),
        ({"voided": "no"}, {"a", "b", "c"}),
        ({"voided": "yes"}, {"void"}),
        ({"q": "ol"}, {"old"}),
        ({"q": "ol", "time": "7d"}, set()),
        ({"q": "b", "class": CLASS}, set()),
        ({"class": CLASS, "type": FAILED, "time": "24h", "voided": "no", "miner": ""}, {"a"}),
        ({"executor_class__exact": OTHER_CLASS}, {"b"}),
    ],
)
def test_what_is_chosen_goes_for_the_list_the_charts_and_the_file(
    query: dict[str, str], left: set[str], admin_client: Client
) -> None:
    incident("a")
    incident("b", executor_class=OTHER_CLASS)
    incident("c", type=REJECTED, ago=2 * DAY)
    incident("void", voided=True)
    incident("old", ago=100 * DAY)
    assert set(hotkeys(admin_client, **query)) == left
    assert {label.split()[0] for label in drawn(admin_client, "worst-miners", **query)} == left - {"void"}
    assert sum(drawn(admin_client, "incidents-by-type", **query).values()) == len(left - {"void"})
    address = listed(admin_client, **query).csv
    assert escape(address) in admin_client.get(ADDRESS, query).content.decode()
    lines = b"".join(admin_client.get(address)).decode().splitlines()[1:]
    assert {line.split(",")[3] for line in lines} == left


@pytest.mark.parametrize(
    ("query", "status"),
    [
        *(({name: "x y"}, 302) for name in ("time", "class", "type", "voided", "miner")),
        *(({name: "x y\0"}, 400) for name in ("time", "class", "type", "voided", "miner")),
        ({"colour": "red"}, 400),
    ],
    ids=str,
)
def test_what_can_t_be_chosen_leads_back_to_the_list_or_is_refused(
    query: dict[str, str], status: int, admin_client: Client
) -> None:
    for address in (ADDRESS, CSV):
        response = admin_client.get(address, query)
        leads = ADDRESS + "?e=1" if status == 302 else None
        assert (response.status_code, response.headers.get("Location")) == (status, leads)
    assert admin_client.get(ADDRESS + "?e=1").status_code == 200


def test_the_forms_show_what_is_chosen_and_keep_the_rest(admin_client: Client) -> None:
    incident("anna")
    content = admin_client.get(ADDRESS, {"time": "30d", "class": CLASS, "q": "an", "o": "1"}).content.decode()
    filters, search = content.split('role="search"')[0], content.split('role="search"')[1].split("</form>")[0]
    assert '<option value="30d" selected>' in filters
    assert f'<option value="{CLASS}" selected>' in filters
    assert '<input type="hidden" name="q" value="an">' in filters
    assert '<input type="hidden" name="o" value="1">' in filters
    assert f'<input type="hidden" name="class" value="{CLASS}">' in search
    assert 'name="time"' not in search  # a search is one of all time
    assert content.count('name="q" id="searchbar" value="an"') == 1


def test_a_hotkey_is_found_by_its_beginning_whatever_its_letters(admin_client: Client) -> None:
    names = ["5Abc", "5abc", "5Ab%", "5Ab_", "z"]
    for name in names:
        incident(name)
    for term in ("5", "5A", "5a", "5Ab", "5Ab%", "5Ab_", "5Abc", "%", "_", "Abc", "z", " z "):
        expected = {name for name in names if name.startswith(term.strip())}
        assert set(hotkeys(admin_client, q=term)) == expected, term
    assert sorted(incident_counts.hotkeys("")) == sorted(names)


def test_without_incidents_no_hotkey_is_found(admin_client: Client) -> None:
    assert incident_counts.hotkeys("") == []
    assert hotkeys(admin_client, q="5") == []


def decision(job: UUID | None, miner: str, ago: dt.timedelta = HOUR, outcome: str = "ROUTED") -> int:
    return decided(miner, NOW - ago, job_uuid=job, outcome=outcome).pk


def test_a_row_leads_to_the_decision_that_sent_the_job_there(admin_client: Client) -> None:
    told = incident("anna")
    decision(told.job_uuid, "bert")
    decision(told.job_uuid, "", outcome="ALL_MINERS_BUSY")
    decision(None, "anna")
    decision(told.job_uuid, "anna", 2 * HOUR)
    newest = decision(told.job_uuid, "anna", HOUR)
    for address in (ADDRESS, reverse("admin:routing_minerincident_change", args=[told.pk])):
        content = admin_client.get(address).content.decode()
        leads = {pk for pk in DecisionRecord.objects.values_list("pk", flat=True) if f"decisionrecord/{pk}/" in content}
        assert leads == {newest}


def test_the_decisions_of_a_page_take_one_query(admin_client: Client) -> None:
    for _ in range(30):
        decision(incident("anna").job_uuid, "anna")
    with CaptureQueriesContext(connection) as captured:
        content = shown(admin_client, LIST)
    assert content.count(">decision</a>") == 30
    assert sum("decisionrecord" in query["sql"] for query in captured) == 1


def test_who_may_not_see_decisions_is_told_nothing_of_them() -> None:
    told = incident("anna")
    decision(told.job_uuid, "anna")
    client = clerk("routing.view_minerincident")
    for address in (ADDRESS, reverse("admin:routing_minerincident_change", args=[told.pk])):
        with CaptureQueriesContext(connection) as captured:
            content = client.get(address).content.decode()
        assert not any("decisionrecord" in q["sql"] for q in captured)
        assert "decision" not in content


def test_a_hotkey_that_is_html_is_shown_as_text(admin_client: Client) -> None:
    told = incident(HTML, voided=True, void_reason=HTML)
    incident(HTML)
    for address in (
        ADDRESS,
        f"{ADDRESS}?miner={HTML}",
        f"{ADDRESS}?q={HTML}",
        reverse("admin:routing_minerincident_change", args=[told.pk]),
        reverse("admin:routing_minerincident_void", args=[MinerIncident.objects.latest("pk").pk]),
    ):
        content = admin_client.get(address).content.decode()
        assert HTML not in content
        assert escape(HTML) in content
    assert "\\u003Cscript\\u003E" in shown(admin_client, LIST)


def test_a_voided_incident_says_so(admin_client: Client) -> None:
    told = incident(voided=True, void_reason="A host of ours was down.")
    content = shown(admin_client, LIST)
    assert '<td class="field-voided">voided</td>' in content
    page = shown(admin_client, "routing_minerincident_change", told.pk)
    for word in ("boss", "A host of ours was down.", "2026-03-01 12:30:00 UTC"):
        assert word in page


def test_a_stretch_ends_in_the_step_that_is_not_over() -> None:
    tokyo = NOW.astimezone(dt.timezone(9 * HOUR))
    assert Stretch("", 2, UtcHour).beginnings(tokyo) == [NOW - 1.5 * HOUR, NOW - HOUR / 2]
    assert Stretch("", 2, UtcDay).beginnings(tokyo) == [NOW - 36.5 * HOUR, NOW - 12.5 * HOUR]
