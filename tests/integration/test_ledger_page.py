"""The ledger's page: it shows what there is, to whoever may see all of it."""

from __future__ import annotations

import datetime as dt
import re
from html import unescape
from uuid import UUID

import pytest
from django.test import Client
from django.urls import reverse
from django.utils.html import escape
from time_machine import TimeMachineFixture

from allowance import allowance, reservations
from allowance.models import Account, Reservation
from allowance.types import RESERVATION_MARGIN, ExecutorClass
from routing.pages import SEE_DECISIONS, SEE_LEDGER, SEE_MINER, ledger, miner_link
from tests.clock import HOUR, SECOND
from tests.factories import ESCAPED, HTML, run_command
from tests.ledgers import CLASS, FIRST_BLOCK, fill_ledger
from tests.queries import queries
from tests.rows import decided, declare, reserve
from tests.visitors import clerk

NOW = dt.datetime(2026, 1, 1, 12, 30, tzinfo=dt.UTC)
pytestmark = [pytest.mark.django_db, pytest.mark.time_machine(NOW, tick=False)]
ADDRESS = reverse("admin:routing_ledger")
LIVE_JOB, SPENT_JOB, EXPIRED_JOB = (UUID(int=i) for i in (1, 2, 3))


@pytest.fixture
def rows(db: None) -> None:
    """A hotkey that is HTML holds 36 s for 50 s more, and spent 60 s; another forgot 36 s an hour ago."""
    fill_ledger(HTML, "plain")
    reserve(HTML, job=LIVE_JOB, now=NOW - 80 * SECOND)
    reservations.spend(reserve(HTML, 60, job=SPENT_JOB, now=NOW), now=NOW)
    reserve("plain", job=EXPIRED_JOB, now=NOW - HOUR)


@pytest.fixture
def treasurer(db: None) -> Client:
    """The client of somebody who may see the ledger, and nothing else."""
    return clerk(*SEE_LEDGER)


def see(client: Client, **query: str) -> str:
    return str(client.get(ADDRESS, query).content.decode())


def section(page: str, title: str) -> str:
    """Return what a page has in the section with this id in its heading."""
    (found,) = re.findall(rf'<section aria-labelledby="{title}">(.*?)</section>', page, re.DOTALL)
    return str(found)


def table(part: str) -> list[list[str]]:
    """Return the cells of the first table, without tags, the heading's row first."""
    rows = re.findall(r"<tr>(.*?)</tr>", part, re.DOTALL)
    return [[re.sub(r"<[^>]*>", "", cell).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows]


def figures(client: Client) -> dict[str, tuple[int, str]]:
    return {figure.name: (figure.number, figure.meaning) for figure in client.get(ADDRESS).context["figures"]}


def miners(client: Client, **query: str) -> list[list[str]]:
    return table(section(see(client, **query), "miners"))[1:]


@pytest.mark.usefixtures("rows")
def test_the_figures_say_what_became_of_reservations(treasurer: Client) -> None:
    assert figures(treasurer) == {
        "Live": (1, "hold 36.0 s now"),
        "About to expire": (1, "within 60 s, with 36.0 s"),
        "Expired unclaimed": (1, "in 24 h, 50% of all that ended; 1 in all"),
        "Spent": (1, "in 24 h; 0 were released"),
    }
    page = see(treasurer)
    assert '<dt>Expired unclaimed</dt><dd><strong class="warn">1</strong> in 24 h, 50% of all that ended' in page


def test_a_page_without_anything_says_so(treasurer: Client) -> None:
    assert figures(treasurer)["Expired unclaimed"] == (0, "in 24 h, none of those that ended; 0 in all")
    page = see(treasurer)
    nothing = (
        "No reservation is held.",
        "No reservation has expired.",
        "No miner has an account yet.",
        "The ledger has never been checked.",
    )
    for said in nothing:
        assert said in page
    assert page.count("Nothing to show.") == 3


@pytest.mark.usefixtures("rows")
def test_the_charts_draw_what_the_ledger_says(treasurer: Client) -> None:
    context = treasurer.get(ADDRESS).context
    ends = context["ended_by_hour"].data
    assert (ends["labels"][0], ends["labels"][-1], len(ends["labels"])) == ("Wed 12:00", "Thu 12:00", 25)
    drawn = {series["name"]: dict(zip(ends["labels"], series["values"], strict=True)) for series in ends["series"]}
    assert {name: {hour: n for hour, n in hours.items() if n} for name, hours in drawn.items()} == {
        "Released": {},
        "Expired": {"Thu 11:00": 1},
        "Spent": {"Thu 12:00": 1},
    }
    shares = context["shares"]
    seconds = dict(zip(shares.labels, shares.series["seconds"], strict=True))
    assert seconds == {"Free": 384, "Held": 36, "Spent": 60, "Voided": 0}
    most = context["most_spent"]
    assert list(most.labels) == [HTML]
    assert dict(most.series) == {"Free": [144], "Held": [36], "Spent": [60], "Voided": [0]}


def test_only_so_many_miners_are_charted_the_most_spent_on_first(treasurer: Client) -> None:
    names = [f"a-hotkey-of-forty-eight-characters-{i:013}" for i in range(ledger.TOP + 2)]
    fill_ledger(*names)
    for i, name in enumerate(names):
        reservations.spend(reserve(name, 12 * (i // 2 + 1), now=NOW), now=NOW)
    most = treasurer.get(ADDRESS).context["most_spent"]
    assert len(most.labels) == ledger.TOP
    assert list(most.labels[:3]) == [names[16], names[14], names[15]]
    assert list(most.series["Spent"][:3]) == [108, 96, 96]


@pytest.mark.usefixtures("rows")
def test_holds_are_listed_the_next_to_lapse_first(treasurer: Client) -> None:
    reserve("plain", 12, now=NOW)
    page = section(see(treasurer), "next-title")
    assert table(page)[1:] == [
        ["50 s, soon", str(LIVE_JOB), ESCAPED, CLASS, "3", "36.0"],
        ["112 s", "without a uuid", "plain", CLASS, "1", "12.0"],
    ]
    assert "2 of 2 live reservations" in page


@pytest.mark.usefixtures("rows")
def test_what_lapsed_without_a_word_is_listed(treasurer: Client) -> None:
    page = section(see(treasurer), "expired-title")
    assert "The newest 1 of 1" in page
    assert table(page)[1:] == [["Jan 1, 11:32:10", str(EXPIRED_JOB), "plain", CLASS, "3", "130 s"]]


@pytest.mark.usefixtures("rows")
def test_miners_are_listed_with_what_became_of_their_allowance(treasurer: Client) -> None:
    heading, *listed = table(section(see(treasurer), "miners"))
    amounts = ("free s", "held s", "spent s ▾", "voided s", "earned s")
    assert heading == ["miner", *amounts, "live now", "expired in 24 h"]
    assert listed == [
        [ESCAPED, "144.0", "36.0", "60.0", "0.0", "240.0", "1", "0"],
        ["plain", "240.0", "0.0", "0.0", "0.0", "240.0", "0", "1"],
    ]


FIRST = {"miner": ESCAPED, **dict.fromkeys(ledger.COLUMNS, ESCAPED), "free": "plain", "expired": "plain"}
"""Who comes first by a column; equals come in the order of their hotkeys."""


@pytest.mark.parametrize(("sort", "first"), FIRST.items())
@pytest.mark.usefixtures("rows")
def test_miners_are_sorted_by_any_column(sort: str, first: str, treasurer: Client) -> None:
    (ordered,) = re.findall(r'aria-sort="\w+"><a href="\?([^"#]*)#miners"', see(treasurer, sort=sort))
    assert ordered == f"executor_class=&amp;sort={sort}"
    assert miners(treasurer, sort=sort)[0][0] == first


def test_an_executor_class_may_be_chosen(treasurer: Client) -> None:
    fill_ledger("anna", "bert")
    other = ExecutorClass.always_on__test
    declare({"anna": {CLASS: 2, other: 1}}, FIRST_BLOCK + 10)
    earned = {c: {row[0]: row[5] for row in miners(treasurer, executor_class=c)} for c in ("", CLASS, other)}
    assert earned == {
        "": {"anna": "300.0", "bert": "240.0"},
        CLASS: {"anna": "240.0", "bert": "240.0"},
        other: {"anna": "60.0"},
    }
    empty = section(see(treasurer, executor_class=ExecutorClass.always_on__llm__a6000), "miners")
    assert "No miner has an account in this class yet." in empty
    response = treasurer.get(ADDRESS, {"executor_class": other})
    assert f'<option value="{other}" selected>' in response.content.decode()
    for chart in ("shares", "most_spent"):
        assert f" in {other}, " in response.context[chart].title


@pytest.mark.parametrize("query", [{"sort": "wealth"}, {"executor_class": HTML}, {"sort": "", "executor_class": "x"}])
@pytest.mark.usefixtures("rows")
def test_a_choice_that_there_is_not_is_named_and_the_page_shown_as_ever(
    query: dict[str, str], treasurer: Client
) -> None:
    response = treasurer.get(ADDRESS, query)
    assert response.status_code == 400
    page = response.content.decode()
    assert 'class="errorlist"' in page
    assert HTML not in page
    assert table(section(page, "miners"))[1:] == miners(treasurer)


def test_a_miner_that_left_is_marked(treasurer: Client) -> None:
    fill_ledger("anna", "bert")
    allowance().record_block(number=FIRST_BLOCK + 21, timestamp=NOW, stake_share=0.5, hotkeys=["bert"])
    assert [row[0] for row in miners(treasurer)] == ["anna (not registered)", "bert"]


@pytest.mark.usefixtures("rows")
def test_a_clean_check_is_told(treasurer: Client) -> None:
    run_command("check_ledger")
    told = section(see(treasurer), "check-title")
    assert '<strong class="good">Clean:</strong> the ledger agrees with its history.' in told
    assert "2026-01-01 12:30:00 UTC" in told
    assert "2 accounts, 3 reservations." in told


@pytest.mark.usefixtures("rows")
def test_a_check_that_found_something_is_told_with_what_it_was(treasurer: Client) -> None:
    Account.objects.update(spent=0)
    found = run_command("check_ledger").out.splitlines()[0]
    told = section(see(treasurer), "check-title")
    sentence = "the check found 1 difference between the ledger and its history."
    assert f'<strong class="bad">Wrong:</strong> {sentence} <code>' in told
    assert f"<li>{escape(found)}</li>" in told
    assert HTML not in told


@pytest.mark.usefixtures("rows")
def test_the_newest_check_counts(treasurer: Client, time_machine: TimeMachineFixture) -> None:
    Account.objects.update(spent=0)
    run_command("check_ledger")
    time_machine.shift(3600)
    run_command("check_ledger", "--repair")
    time_machine.shift(7200)
    told = section(see(treasurer), "check-title")
    sentence = "the check found 1 difference between the ledger and its history."
    assert f'<strong class="warn">Repaired:</strong> {sentence} The repair rewrote all of them.' in told
    assert "2026-01-01 13:30:00 UTC, 2\xa0hours ago" in told


@pytest.mark.usefixtures("rows")
def test_what_no_repair_mends_is_told(treasurer: Client) -> None:
    spent = Reservation.objects.get(job_uuid=SPENT_JOB)
    spent.pk = None
    spent.save()
    run_command("check_ledger", "--repair")
    told = section(see(treasurer), "check-title")
    sentence = "the check found 5 differences between the ledger and its history."
    assert f'<strong class="bad">Wrong:</strong> {sentence} After the repair 5 are left.' in told


@pytest.mark.parametrize("missing", SEE_LEDGER)
def test_who_lacks_a_permission_sees_neither_the_page_nor_a_link_to_it(missing: str) -> None:
    client = clerk(*set(SEE_LEDGER) - {missing})
    assert client.get(ADDRESS).status_code == 403
    assert ADDRESS not in client.get(reverse("admin:index")).content.decode()


def test_who_may_see_it_has_a_link_to_it(treasurer: Client) -> None:
    for address in (ADDRESS, reverse("admin:index")):
        assert f'<a href="{ADDRESS}"' in treasurer.get(address).content.decode()


@pytest.mark.usefixtures("rows")
def test_jobs_lead_to_their_decisions_for_whoever_may_see_those(treasurer: Client) -> None:
    address = f"{reverse('admin:routing_decisionrecord_changelist')}?q={EXPIRED_JOB}"
    assert address not in see(treasurer)
    decided(job_uuid=EXPIRED_JOB)
    client = clerk(*SEE_LEDGER, *SEE_DECISIONS)
    assert f'<a href="{address}">{EXPIRED_JOB}</a>' in see(client)
    assert [row.job_uuid for row in client.get(address).context["cl"].result_list] == [EXPIRED_JOB]


@pytest.mark.usefixtures("rows")
def test_miners_lead_to_their_pages_for_whoever_may_see_those(treasurer: Client) -> None:
    assert miner_link("plain") not in see(treasurer)
    client = clerk(*SEE_LEDGER, *SEE_MINER)
    page = see(client)
    for hotkey in (HTML, "plain"):
        assert miner_link(hotkey) in page
    (address,) = re.findall('href="([^"]*)"', miner_link(HTML))
    assert ESCAPED in client.get(unescape(address)).content.decode()


@pytest.mark.usefixtures("rows")
def test_the_page_takes_as_many_queries_for_many_as_for_few(treasurer: Client) -> None:
    see(treasurer)
    few = queries(lambda: see(treasurer))
    for i in range(4):
        reserve("plain", job=UUID(int=9 + i), now=NOW)
        reserve("plain", 12, job=UUID(int=90 + i), now=NOW - RESERVATION_MARGIN - 40 * SECOND)
    assert len(queries(lambda: see(treasurer))) == len(few)
