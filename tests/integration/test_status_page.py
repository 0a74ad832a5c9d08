"""How routing stands, as its page shows it."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from routing.pages import SEE_STATUS
from routing.watch.measures import FEW
from routing.watch.status import status
from tests.clock import HOUR, SECOND
from tests.integration.hour import NOW, decide
from tests.queries import queries
from tests.visitors import clerk

pytestmark = [pytest.mark.django_db, pytest.mark.time_machine(NOW, tick=False)]


def page(client: Client) -> tuple[str, Any]:
    """Return the page as text, and what it was made of."""
    response = client.get(reverse("admin:routing_status"))
    assert response.status_code == 200
    return response.content.decode(), response.context


@pytest.mark.usefixtures("hour")
def test_the_page_shows_what_the_function_says() -> None:
    text, _ = page(clerk(*SEE_STATUS))
    plain, found = unescape(text), status(NOW)
    assert found.sentence in plain
    rows = re.findall(r"<tr><td><strong class=\"level-(\w+)\">(\w+)</strong>.*?</tr>", plain, re.DOTALL)
    assert rows == [(finding.level, finding.level.upper()) for finding in found.findings]
    values = [float(value) for value in re.findall(r'<data value="([^"]+)">', text)]
    assert values == [finding.value for finding in found.findings]
    for finding in found.findings:
        assert f'<td class="says">{finding.sentence}</td>' in plain
        assert all(f">{said}<" in plain for said in finding.amounts)


@pytest.mark.usefixtures("hour")
def test_the_page_charts_a_day_of_decisions_and_the_work_of_an_hour() -> None:
    decide(3, "ALL_MINERS_BUSY", at=NOW.replace(minute=0) - 23 * HOUR)
    decide(5, "ALL_MINERS_BUSY", at=NOW.replace(minute=0) - 23 * HOUR - SECOND)
    decide(2, "SomethingNew", at=NOW)
    _, context = page(clerk(*SEE_STATUS))
    decisions, refusals = context["decisions"], context["refusals"]
    assert decisions.labels == [f"{(13 + hour) % 24:02}:00" for hour in range(24)]
    at_eleven, at_twelve = [0] * 22 + [1, 0], [0] * 23 + [1]
    by_outcome = {
        "routed": (9, 15),
        "fixed route": (0, 50),
        "not enough allowance": (0, 8),
        "not enough collateral": (0, 4),
        "all miners busy": (50, 3),
        "lock timeout": (0, 1),
        "SomethingNew": (0, 2),
    }
    expected = {
        name: [eleven * a + twelve * b for a, b in zip(at_eleven, at_twelve, strict=True)]
        for name, (eleven, twelve) in by_outcome.items()
    }
    expected["all miners busy"][0] = 3
    assert decisions.series == expected
    assert list(decisions.series) == list(by_outcome)
    assert dict(zip(refusals.labels, refusals.series["refusals"], strict=True)) == {
        "not enough allowance": 8,
        "not enough collateral": 4,
        "all miners busy": 56,
        "lock timeout": 1,
        "SomethingNew": 2,
    }
    assert (context["most_jobs"].labels, context["most_jobs"].series) == (["hot-1", "hot-2"], {"jobs": [15, 9]})
    assert (context["most_seconds"].labels, context["most_seconds"].series) == (
        ["hot-2", "hot-1"],
        {"seconds": [900, 450]},
    )


def test_the_page_is_there_without_any_data_and_refreshes_by_a_link_only() -> None:
    text, context = page(clerk(*SEE_STATUS))
    assert context["decisions"].is_empty
    assert "Nothing to show." in text
    assert "http-equiv" not in text
    assert f'<a href="{reverse("admin:routing_status")}">Refresh</a>' in text


def test_a_hotkey_that_is_html_is_shown_as_text_and_leads_to_its_miner() -> None:
    decide(FEW, miner="<b>'hot'</b>")
    text, _ = page(clerk(*SEE_STATUS))
    assert "<b>" not in text
    assert "&lt;b&gt;&#x27;hot&#x27;&lt;/b&gt; got 20 of 20 jobs" in text
    assert re.search(r'<a href="/admin/allowance/miner/[^"<>]+/change/">&lt;b&gt;&#x27;hot', text)


@pytest.mark.usefixtures("hour")
def test_the_page_takes_twenty_queries() -> None:
    """Those of the function, one for the charts, and four to know who is asking."""
    client = clerk(*SEE_STATUS)
    assert len(queries(lambda: page(client))) == 15 + 1 + 4


@pytest.mark.parametrize("missing", SEE_STATUS)
def test_who_lacks_one_of_the_permissions_sees_nothing(missing: str) -> None:
    client = clerk(*(permission for permission in SEE_STATUS if permission != missing))
    assert client.get(reverse("admin:routing_status")).status_code == 403


def test_bad_limits_are_no_page(settings: Settings) -> None:
    settings.ROUTING_STATUS_LIMITS = {"refusals": [2, 1]}
    response = clerk(*SEE_STATUS).get(reverse("admin:routing_status"))
    assert response.status_code == 500
    assert "ROUTING_STATUS_LIMITS: refusals must be [warning, critical], not [2, 1]" in unescape(
        response.content.decode()
    )
