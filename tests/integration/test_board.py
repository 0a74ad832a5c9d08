"""The reliability board: the dry run as a page, and the same as JSON."""

from __future__ import annotations

import re
from typing import Any

import pytest
from constance import config
from django.contrib.admin.utils import quote
from django.test import Client
from django.urls import reverse
from django.utils.html import escape
from pytest_django import Settings

from allowance import allowance
from allowance.types import MAX_WEI, ExecutorClass
from routing.decision import in_force
from routing.decision.book import DryBook
from routing.decision.pipeline import decide
from routing.log import report
from routing.pages import SEE_MINER, SEE_MINERS
from tests.clock import HOUR, NOW, noon
from tests.factories import job_request
from tests.ledgers import CLASS, FIRST_BLOCK, NEWEST
from tests.queries import assert_only_reads, queries
from tests.rows import declare
from tests.rows import report as report_incident
from tests.visitors import clerk

HTML = "<b>'hot'/&amp;</b>"
WEI = 10**30 + 1
pytestmark = [pytest.mark.django_db, noon, pytest.mark.miners("hot-1", "hot-2", HTML)]


@pytest.fixture(autouse=True)
def incidents_and_collateral(ledger: None) -> None:
    """hot-1 is the more reliable one, hot-2 the richer one, and the third has a hotkey that is HTML."""
    allowance().record_collateral(hotkey="hot-2", wei=WEI)
    for hotkey, hours in (("hot-2", 1), (HTML, 2), (HTML, 3)):
        report_incident(hotkey, at=NOW - hours * HOUR)


def board(client: Client, **asked: object) -> Any:
    return client.get(reverse("admin:routing_board"), {name: str(value) for name, value in asked.items()})


def ranked(client: Client, **asked: object) -> dict[str, int | None]:
    """Return what the page says of each miner, in its order."""
    response = board(client, **asked)
    assert response.status_code == 200
    return {c.hotkey: c.rank for c in response.context["candidates"]}


def test_it_shows_what_the_router_would_decide(admin_client: Client) -> None:
    response = board(admin_client, executor_class=CLASS, seconds=30)
    decision = decide(job_request(30), DryBook(), now=NOW)
    assert response.context["candidates"] == report.in_order(decision)
    assert ranked(admin_client, executor_class=CLASS, seconds=30) == {"hot-1": 1, "hot-2": 2, HTML: 3}
    content = response.content.decode()
    for said in (
        report.sentence(decision),
        decision.summary,
        f"at block {FIRST_BLOCK + 20}",
        "gets the job",
        "ranked below the miner that gets the job",
        ">1000000000000.000000000000000001 TAO<",
        ">-0.500<",
        ">240.0 s<",
    ):
        assert said in content, said
    assert board(admin_client).context["decision"].job.executor_class == CLASS


def test_who_is_stopped_is_shown_with_the_gate_and_the_sentence(admin_client: Client) -> None:
    response = board(admin_client, seconds=30, minimum_wei=1, exclude="hot-1")
    content = response.content.decode()
    for gate, sentence in (("excluded", "excluded by the caller"), ("collateral", "0 Wei posted, 1 Wei needed")):
        assert f'<span class="bad">{gate}</span>: {sentence}' in content
    shares = [(share.gate, share.miners, share.x) for share in response.context["shares"]]
    assert shares == [(None, 1, 0), ("excluded", 1, 1), ("collateral", 1, 2)]
    drawn = re.findall(r'<rect class="(\w+)" x="(\d+)" y="0" width="(\d+)"', content)
    assert drawn == [("eligible", "0", "1"), ("excluded", "1", "1"), ("collateral", "2", "1")]


def test_a_job_that_nobody_takes_is_shown_too(admin_client: Client) -> None:
    content = board(admin_client, seconds=300).content.decode()
    assert "No miner has 300 s of allowance" in content
    assert "240 s free, 300 s needed" in content


@pytest.mark.parametrize(
    ("asked", "first"),
    [
        ({}, "hot-1"),
        ({"minimum_wei": WEI}, "hot-2"),
        ({"minimum_wei": 0}, "hot-1"),
        ({"exclude": "hot-1"}, "hot-2"),
        ({"exclude": "hot-1,hot-2"}, HTML),
        ({"exclude": "\n hot-1 ,\r\nhot-2\n"}, HTML),
        ({"hours": 0.5}, HTML),
        ({"exclude": "hot-1 hot-2", "hours": 2.5}, HTML),
        ({"minimum_wei": "", "hours": "", "exclude": ""}, "hot-1"),
    ],
    ids=repr,
)
def test_what_if_fields_change_the_decision(asked: dict[str, object], first: str, admin_client: Client) -> None:
    assert next(iter(ranked(admin_client, seconds=30, **asked))) == first


def test_the_window_changes_the_scores(admin_client: Client) -> None:
    scores = {
        hours: {c.hotkey: c.score for c in board(admin_client, seconds=30, hours=hours).context["candidates"]}
        for hours in (0.5, 2.5)
    }
    assert scores == {0.5: {"hot-1": 0, "hot-2": 0, HTML: 0}, 2.5: {"hot-1": 0, "hot-2": -0.5, HTML: -0.5}}


def test_blank_fields_mean_what_is_in_force(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_force, "policy", lambda: in_force.make_policy(7, 1.5))
    response = board(admin_client, seconds=30)
    assert response.context["decision"].policy == in_force.make_policy(7, 1.5)
    for said in ("the setting in force, 7 Wei.", "the setting in force, 1.5."):
        assert said in response.content.decode()
    assert board(admin_client, seconds=30, hours=2).context["decision"].policy == in_force.make_policy(7, 2)


UNFIT = {
    "seconds": ["0", "3601", "", "1.5"],
    "executor_class": ["gpu"],
    "minimum_wei": ["-1", str(MAX_WEI + 1), "10.000", "10,000", "1.5", "9" * 5000],
    "hours": ["-1", "nan", "inf", "9999999"],
    "exclude": ["x" * 49, "\x07"],
}
BAD = [(field, value) for field, values in UNFIT.items() for value in values]


@pytest.mark.parametrize(("field", "value"), BAD, ids=lambda value: value[:12])
def test_bad_input_is_told_at_its_field_and_nothing_is_decided(field: str, value: str, admin_client: Client) -> None:
    response = board(admin_client, **{field: value})
    assert set(response.context["form"].errors) == {field}
    assert response.context["decision"] is None
    assert f'id="id_{field}_error"' in response.content.decode()
    refused = board(admin_client, **{field: value}, format="json")
    assert refused.status_code == 400
    assert set(refused.json()["errors"]) == {field}


@pytest.mark.parametrize("wei", [MAX_WEI, MAX_WEI - 1])
def test_the_highest_collateral_is_taken_exactly(wei: int, admin_client: Client) -> None:
    said = board(admin_client, minimum_wei=wei, format="json").json()
    assert said["minimum_collateral_wei"] == str(wei)
    assert said["outcome"] == "NOT_ENOUGH_COLLATERAL"


def test_the_advice_names_the_field_that_refused(admin_client: Client) -> None:
    asked = {"seconds": 30, "minimum_wei": "2e30", "exclude": "hot-1"}
    advice = "Lower “Minimum collateral”, or wait until miners post more, or name fewer under “Excluded miners”."
    content = board(admin_client, **asked).content.decode()
    assert advice in content
    assert "DYNAMIC_MINIMUM" not in content
    config.DYNAMIC_MINIMUM_COLLATERAL_AMOUNT_WEI = 2 * WEI
    assert "Lower DYNAMIC_MINIMUM_COLLATERAL_AMOUNT_WEI" in board(admin_client, seconds=30).content.decode()


def test_the_json_is_that_of_the_dry_run(admin_client: Client) -> None:
    asked = {"executor_class": CLASS, "seconds": 30, "exclude": "hot-1"}
    said = board(admin_client, **asked, format="json").json()
    expected = report.as_json(decide(job_request(30), DryBook(), now=NOW, exclude=["hot-1"]))
    assert {**said, "uuid": None} == {**expected, "uuid": None}
    link = re.search(r'href="(\?[^"]*format=json)"', board(admin_client, **asked).content.decode())
    assert link
    same = admin_client.get(reverse("admin:routing_board") + link[1].replace("&amp;", "&")).json()
    assert {**same, "uuid": None} == {**said, "uuid": None}


def test_a_hotkey_that_is_html_is_shown_as_text_and_leads_to_its_page(admin_client: Client) -> None:
    content = board(admin_client, exclude=HTML).content.decode()
    assert HTML not in content
    assert escape(HTML) in content
    address = reverse("admin:routing_miner", args=[quote(HTML)])
    assert f'<a href="{escape(address)}">{escape(HTML)}</a>' in content
    assert admin_client.get(address).status_code == 200


def test_a_class_without_miners_says_so(admin_client: Client) -> None:
    response = board(admin_client, executor_class=ExecutorClass.always_on__test)
    assert "No miner of this class is registered" in response.content.decode()


def test_with_a_debug_miner_there_are_no_candidates(admin_client: Client, settings: Settings) -> None:
    settings.DEBUG_MINER_KEY, settings.DEBUG_MINER_ADDRESS, settings.DEBUG_MINER_PORT = "hot-9", "10.9.9.9", 99
    content = board(admin_client).content.decode()
    assert "Routed to hot-9" in content
    assert "a fixed route without candidates" in content
    assert board(admin_client, format="json").json()["candidates"] == []


@pytest.mark.parametrize("asked", [{}, {"format": "json"}], ids=repr)
@pytest.mark.parametrize("missing", SEE_MINERS)
def test_who_lacks_a_permission_sees_nothing(missing: str, asked: dict[str, object]) -> None:
    response = board(clerk(*set(SEE_MINER) - {missing}), **asked)
    assert response.status_code == 403
    assert "hot-1" not in response.content.decode()


def test_who_may_not_see_a_miners_page_gets_no_link_to_it() -> None:
    content = board(clerk(*SEE_MINERS)).content.decode()
    assert "hot-1" in content
    assert reverse("admin:routing_miner", args=["x"])[:-2] not in content


def test_it_takes_no_post(admin_client: Client) -> None:
    assert admin_client.post(reverse("admin:routing_board")).status_code == 405


@pytest.mark.parametrize("asked", [{}, {"format": "json"}, {"seconds": 300}], ids=repr)
def test_it_writes_and_locks_nothing(asked: dict[str, object], admin_client: Client) -> None:
    assert_only_reads(lambda: board(admin_client, **asked))


@pytest.mark.django_db(transaction=True)  # in a transaction nothing is remembered
@pytest.mark.parametrize("more", [0, 40])
def test_it_takes_as_many_queries_for_many_miners_as_for_few(more: int, admin_client: Client) -> None:
    """The session and the user, the settings, and what the decision reads: the ledger and what is ongoing."""
    hotkeys = ["hot-1", "hot-2", HTML, *(f"more-{i}" for i in range(more))]
    allowance().record_block(number=NEWEST + 1, timestamp=NOW, stake_share=0.5, hotkeys=hotkeys)
    declare(dict.fromkeys(hotkeys, 2), NEWEST + 1)
    assert len(ranked(admin_client)) == 3 + more
    assert len(queries(lambda: board(admin_client))) == 4
