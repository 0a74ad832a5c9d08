"""A miner's page: all that it says is what the ledger, the receipts, the incidents and the router say."""

from __future__ import annotations

import datetime as dt
import html
import random
import re
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.admin.utils import quote
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django.utils.html import escape
from pytest_django import Settings

from allowance import allowance
from allowance.amounts import wei_text
from allowance.ledger import Steps
from allowance.models import Account, Block, Miner, Reservation
from allowance.oversight.fates import Fate
from allowance.types import ExecutorClass
from receipts.schemas import JobAccepted, JobFinished, JobStarted
from routing.decision import in_force
from routing.incidents import void_incident
from routing.models import IncidentVersion, MinerIncident, RoutedJob
from routing.pages import SEE_MINER
from routing.pages.miner import LAST, SHOWN
from tests.clock import HOUR, MINUTE, NOW, SECOND, noon
from tests.factories import OTHER_CLASS
from tests.follower import follow
from tests.follower import report as source
from tests.ledgers import CLASS, FIRST_BLOCK, NEWEST
from tests.queries import assert_only_reads, queries
from tests.rows import FAILED, HORDE, RECEIPTS, REJECTED, decided, declare, mint, receive, report, reserve
from tests.visitors import clerk

HTML = "<b>'hot'/&amp;</b>"
pytestmark = [pytest.mark.django_db, noon, pytest.mark.miners("anna", "bert", HTML)]


def address(hotkey: str) -> str:
    return reverse("admin:routing_miner", args=[quote(hotkey)])


def show(client: Client, hotkey: str = "anna", **asked: object) -> Any:
    response = client.get(address(hotkey), {name: str(value) for name, value in asked.items()})
    assert response.status_code == 200
    return response


def in_class(client: Client, hotkey: str = "anna", **asked: object) -> Any:
    """Return what the page shows of the miner in CLASS, the only one in which it is."""
    (found,) = show(client, hotkey, **asked).context["classes"]
    return found


def seconds(client: Client, hotkey: str = "anna") -> dict[str, float]:
    """Return what the strip's legend says, which must be what its bars come to."""
    found = in_class(client, hotkey)
    assert sum(bar.run.blocks for bar in found.bars) == found.blocks
    content = show(client, hotkey).content.decode()
    told = {state: float(n) for state, n in re.findall(r"(free|held|spent|voided): ([\d.]+) s in \d+ block", content)}
    assert told == {state.value: total.ns / 1e9 for state, total in found.amounts if state is not Fate.NONE}
    return told


def test_it_says_where_the_miner_is_and_since_when(admin_client: Client) -> None:
    content = show(admin_client).content.decode()
    assert "10.0.0.1:9000 (IPv4)" in content
    assert "registered in every recorded block" in content


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ((), "not registered in any block that the ledger still uses"),
        (((7, 1),), "registered since block 7 or earlier"),
        (((0, 1), (8, 0)), "not registered since block 8"),
        (((0, 1), (8, 0), (9, 1)), "registered since block 9"),
    ],
    ids=repr,
)
def test_it_says_no_more_of_its_presence_than_is_remembered(steps: Steps, said: str, admin_client: Client) -> None:
    Miner.objects.filter(pk="anna").update(presence=steps)
    assert f">{said}</dd>" in show(admin_client).content.decode()


def test_a_miner_that_left_is_no_candidate_but_has_its_blocks(admin_client: Client) -> None:
    mint(NEWEST + 1, hotkeys=["bert"])
    response = show(admin_client)
    assert f"not registered since block {NEWEST + 1}" in response.content.decode()
    (found,) = response.context["classes"]
    assert (found.candidate, found.costs) == (None, ())
    assert seconds(admin_client)["free"] == 252


def test_an_executor_class_in_which_nothing_was_declared_is_left_out(admin_client: Client) -> None:
    allowance().record_collateral(hotkey="carl", wei=1)
    response = show(admin_client, "carl")
    assert "The miner has no account in a current executor class" in response.content.decode()
    assert "not registered in any block that the ledger still uses" in response.content.decode()


def test_a_class_that_the_network_has_no_more_is_left_out(admin_client: Client) -> None:
    Account.objects.create(miner_id="anna", executor_class="retired")
    assert in_class(admin_client).account.executor_class == CLASS


@pytest.mark.parametrize(
    ("wei", "passes", "percent"), [(0, False, 0), (999, False, 49), (2000, True, 100), (2**256 - 1, True, 100)]
)
def test_the_collateral_is_shown_against_the_threshold(
    wei: int, passes: bool, percent: int, admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_force, "policy", lambda: in_force.make_policy(2000, 24))
    allowance().record_collateral(hotkey="anna", wei=wei)
    content = show(admin_client).content.decode()
    assert ("enough</span>" in content, "too little</span>" in content) == (passes, not passes)
    assert f"{wei_text(wei)} posted, 2000 Wei needed" in content
    assert f">{'at least ' * passes}{percent} % of the needed collateral</label>" in content
    assert f'value="{percent}">{percent} %</meter>' in content
    assert ("2000 Wei needed" in in_class(admin_client).candidate.verdict.sentence) is not passes


def test_without_a_threshold_there_is_nothing_to_compare(admin_client: Client) -> None:
    content = show(admin_client).content.decode()
    assert "none needed" in content
    assert "<meter" not in content


def test_the_strip_tells_what_became_of_the_blocks(admin_client: Client) -> None:
    """20 blocks of 12 s; a hold that expired is free."""
    allowance().spend_allowance(reserve(seconds=24))
    reserve(seconds=60)
    reserve(seconds=12, now=NOW - HOUR)
    assert seconds(admin_client) == {"free": 156, "held": 60, "spent": 24, "voided": 0}
    content = show(admin_client).content.decode()
    bars = re.findall(r'<rect class="(\w+)" x="(\d+)" y="0" width="(\d+)"', content)
    assert bars == [("spent", "0", "2"), ("held", "2", "5"), ("free", "7", "13"), ("none", "20", "1")]
    assert 'viewBox="0 0 21 20"' in content
    label = "156.0 s free, 60.0 s held, 24.0 s spent, 0.0 s voided, 1 block gave nothing"
    assert f'aria-label="Blocks {FIRST_BLOCK} to {NEWEST}: {label}"' in content
    assert f"<title>{FIRST_BLOCK} to {FIRST_BLOCK + 1}: 24.0 s spent</title>" in content


def test_a_drop_voids_what_is_older(admin_client: Client) -> None:
    allowance().spend_allowance(reserve(seconds=24))
    declare({"anna": 1}, FIRST_BLOCK + 15)
    assert seconds(admin_client) == {"free": 30, "held": 0, "spent": 0, "voided": 180}


def test_ongoing_jobs_are_listed_with_what_says_so(admin_client: Client) -> None:
    held, started, accepted, both, paid, moved, over, expired = (uuid4() for _ in range(8))
    hold = reserve(seconds=12, job=held)
    nameless = reserve(seconds=12)
    reserve(seconds=12, job=both)
    reserve(seconds=12, job=moved)
    reserve(seconds=12, job=expired, now=NOW - HOUR)
    allowance().spend_allowance(reserve(seconds=12, job=paid))
    for job in (started, both, paid, over):
        receive(JobStarted, job, at=NOW - SECOND)
    receive(JobStarted, accepted, at=NOW - HOUR)
    receive(JobAccepted, accepted, at=NOW - 2 * SECOND, time_accepted=NOW, ttl=90)
    receive(JobFinished, over)
    receive(JobStarted, moved, "bert")
    found = in_class(admin_client)
    jobs = {job.uuid: job for job in found.ongoing}
    assert jobs.keys() == {held, None, started, accepted, both, paid, moved}
    assert found.candidate.ongoing == len(found.ongoing) == 7
    sources = {uuid: [re.sub("<[^>]*>", "", source) for source in job.sources] for uuid, job in jobs.items()}
    of_both, of_moved = (f"reservation {Reservation.objects.get(job_uuid=job).pk}" for job in (both, moved))
    assert sources == {
        held: [f"reservation {hold}"],
        None: [f"reservation {nameless}"],
        started: ["started receipt"],
        accepted: ["accepted receipt"],
        both: [of_both, "started receipt"],
        paid: ["started receipt"],
        moved: [of_moved],
    }
    assert jobs[held].until == "2026-01-01 12:01:52 UTC"
    assert (jobs[started].since, jobs[started].until) == ("2026-01-01 11:59:59 UTC", "2026-01-01 12:00:59 UTC")
    assert jobs[accepted].until == "2026-01-01 12:01:28 UTC"
    assert (jobs[both].since, jobs[both].until) == ("2026-01-01 11:59:59 UTC", "2026-01-01 12:01:52 UTC")
    content = show(admin_client).content.decode()
    assert f'<a href="{reverse("admin:allowance_reservation_change", args=[hold])}">reservation {hold}</a>' in content
    assert f"{reverse('admin:routing_decisionrecord_changelist')}?q={started}" in content


def costs(client: Client, hotkey: str, **asked: object) -> dict[str, tuple[int, float, int | None]]:
    found = in_class(client, hotkey, **asked)
    return {cost.label: (cost.incidents, cost.score, cost.rank) for cost in found.costs}


def test_a_score_is_shown_with_what_each_type_of_incident_costs(admin_client: Client) -> None:
    """All miners have two executors; equals stay in the order of the allowance, here by hotkey."""
    report("anna", kind=REJECTED, at=NOW - HOUR)
    for _ in range(3):
        report("bert", at=NOW - HOUR)
    for kind in (REJECTED, FAILED, FAILED):
        report(HTML, kind=kind, at=NOW - HOUR)
    report(HTML, kind=HORDE, at=NOW - 25 * HOUR)
    report(HTML, kind=HORDE, executor_class=OTHER_CLASS)
    told = report(HTML, kind=HORDE)
    void_incident(told.pk, by="boss", reason="our fault", now=NOW)
    found = in_class(admin_client, HTML)
    assert (found.candidate.incidents, found.candidate.score, found.candidate.rank) == (3, -1.5, 2)
    assert (found.incidents, found.ranked) == (3, 3)
    assert costs(admin_client, HTML) == {
        "failed the job": (1, -0.5, 1),
        "rejected the job": (2, -1.0, 2),
        "": (0, 0.0, 1),
    }
    content = show(admin_client, HTML).content.decode()
    assert "without “failed the job”" in content
    assert "2 of 3" in content
    assert costs(admin_client, "anna") == {"rejected the job": (0, 0.0, 1), "": (0, 0.0, 1)}
    found = in_class(admin_client, "bert")
    assert (found.candidate.rank, [cost.rank for cost in found.costs]) == (3, [1, 1])


def test_what_incidents_cost_comes_true_without_them(admin_client: Client) -> None:
    chance = random.Random(1)
    for _ in range(15):
        report(chance.choice(["anna", "bert", HTML]), kind=chance.choice([REJECTED, FAILED, HORDE]), at=NOW - HOUR)
    for hotkey in ("anna", "bert", HTML):
        for cost in in_class(admin_client, hotkey).costs:
            gone = MinerIncident.objects.filter(hotkey_ss58address=hotkey)
            with transaction.atomic():
                (gone.filter(type=cost.without) if cost.without else gone).delete()
                IncidentVersion.objects.all().delete()
                found = in_class(admin_client, hotkey).candidate
                assert (found.incidents, found.score, found.rank) == (cost.incidents, cost.score, cost.rank)
                transaction.set_rollback(True)


def test_who_is_busy_is_ranked_all_the_same(admin_client: Client) -> None:
    report("anna")
    for hotkey in ("anna", "bert"):
        for _ in range(2):
            reserve(hotkey, 12)
    found = in_class(admin_client)
    assert found.candidate.verdict.gate == "executors"
    assert (found.candidate.rank, found.ranked, found.costs[-1].rank) == (3, 3, 2)


def test_whom_a_gate_stops_is_not_ranked_whatever_its_incidents(admin_client: Client) -> None:
    report("anna")
    found = in_class(admin_client, seconds=241)
    assert found.candidate.verdict.gate == "allowance"
    assert [(cost.score, cost.rank) for cost in found.costs] == [(0.0, None), (0.0, None)]
    content = show(admin_client, seconds=241).content.decode()
    assert '<span class="bad">allowance</span>: 240 s free, 241 s needed' in content
    assert "not ranked" in content


def test_a_bad_length_is_told_and_the_usual_one_is_shown(admin_client: Client) -> None:
    for bad in ("0", "3601", "", "x"):
        response = show(admin_client, seconds=bad)
        assert set(response.context["form"].errors) == {"seconds"}
        assert "Rank for a job of 60 s" in response.content.decode()
    assert "Rank for a job of 30 s" in show(admin_client, seconds=30).content.decode()


def test_with_a_debug_miner_nobody_is_ranked(admin_client: Client, settings: Settings) -> None:
    settings.DEBUG_MINER_KEY, settings.DEBUG_MINER_ADDRESS, settings.DEBUG_MINER_PORT = "hot-9", "10.9.9.9", 99
    report("anna")
    content = show(admin_client).content.decode()
    assert "every job has a fixed route" in content
    assert seconds(admin_client)["free"] == 240


def test_incidents_that_count_are_shown_by_day_and_type(admin_client: Client) -> None:
    midnight = NOW.replace(hour=0)
    first = midnight - dt.timedelta(days=SHOWN.steps - 1)
    for kind, at in ((REJECTED, midnight), (REJECTED, midnight - SECOND), (HORDE, first), (HORDE, first - SECOND)):
        report("anna", kind=kind, at=at)
    report("anna", at=midnight, executor_class=OTHER_CLASS)
    void_incident(report("anna", at=midnight).pk, by="boss", reason="our fault", now=NOW)
    chart = show(admin_client).context["chart"]
    assert (len(chart.labels), chart.labels[0], chart.labels[-1]) == (SHOWN.steps, "2025-12-03", "2026-01-01")
    days = [(name, zip(chart.labels, values, strict=True)) for name, values in chart.series.items()]
    assert {(label, name): n for name, counted in days for label, n in counted if n} == {
        ("2026-01-01", "rejected the job"): 1,
        ("2025-12-31", "rejected the job"): 1,
        ("2026-01-01", "failed the job"): 1,
        ("2025-12-03", "its horde failed"): 1,
    }


def test_the_newest_decisions_that_sent_it_a_job_are_listed(admin_client: Client) -> None:
    made = [decided("anna", NOW - hours * HOUR, rank=7, score=-0.25) for hours in range(LAST + 1)]
    other = decided("bert")
    response = show(admin_client)
    assert list(response.context["decisions"]) == made[:LAST]
    links = [reverse("admin:routing_decisionrecord_change", args=[d.pk]) for d in (*made, other)]
    content = response.content.decode()
    assert [f'"{link}"' in content for link in links] == [True] * LAST + [False, False]
    assert "2026-01-01 12:00:00 UTC" in content
    assert '<td class="number">-0.250</td>' in content


def test_links_lead_to_all_that_concerns_it_and_are_open_to_whoever_sees_them() -> None:
    client = clerk(*SEE_MINER)
    for hotkey in ("anna", HTML):
        report(hotkey)
        reserve(hotkey, job=uuid4())
        decided(hotkey)
        job = uuid4()
        for kind in RECEIPTS:
            receive(kind, job, hotkey)
    for hotkey in ("anna", HTML):
        *lists, row = (html.unescape(link.split('"')[1]) for link in show(client, hotkey).context["links"])
        for address_of_list in lists:
            page = client.get(address_of_list)
            assert (page.status_code, page.context["cl"].result_count) == (200, 1), address_of_list
        assert client.get(row).status_code == 200


@pytest.mark.parametrize("model", ["decisionrecord", "routedjob"])
def test_lists_lead_to_the_page_but_from_fixed_routes(model: str, admin_client: Client) -> None:
    routed = {"executor_class": CLASS, "seconds": 30, "routed_at": NOW}
    hold = reserve(job=uuid4())
    RoutedJob.objects.create(uuid=uuid4(), miner="anna", reservation_id=hold, **routed)
    RoutedJob.objects.create(uuid=uuid4(), miner="fixed", **routed)
    decided("anna")
    decided("fixed", window_hours=None)
    decided("", outcome="ALL_MINERS_BUSY")
    content = admin_client.get(reverse(f"admin:routing_{model}_changelist")).content.decode()
    assert f'<a href="{address("anna")}">anna</a>' in content
    assert "fixed" in content
    assert content.count(address("x").removesuffix("x/")) == 1


@pytest.mark.parametrize("hotkey", ["nobody", "a b", "x" * 49, "\0", "%00", "_"])
def test_an_unknown_hotkey_is_not_found(hotkey: str, admin_client: Client) -> None:
    assert admin_client.get(address(hotkey)).status_code == 404


@pytest.mark.parametrize("hotkey", [HTML, "a/b", "_2F", "100%", "..", "ä?#"])
def test_odd_hotkeys_have_a_page_and_are_shown_as_text(hotkey: str, admin_client: Client) -> None:
    allowance().record_collateral(hotkey=hotkey, wei=1)
    content = show(admin_client, hotkey).content.decode()
    assert f"<h1>{escape(hotkey)}</h1>" in content
    assert "<b>'hot'" not in content


@pytest.mark.parametrize("missing", SEE_MINER)
def test_who_lacks_a_permission_sees_nothing(missing: str) -> None:
    response = clerk(*set(SEE_MINER) - {missing}).get(address("anna"))
    assert response.status_code == 403
    assert "10.0.0.1" not in response.content.decode()


def test_who_has_the_permissions_sees_it() -> None:
    assert clerk(*SEE_MINER).get(address("anna")).status_code == 200


def test_it_takes_no_post(admin_client: Client) -> None:
    assert admin_client.post(address("anna")).status_code == 405


def test_it_writes_and_locks_nothing(admin_client: Client) -> None:
    reserve(now=NOW - HOUR)
    assert_only_reads(lambda: show(admin_client))


@pytest.mark.django_db(transaction=True)  # in a transaction nothing is remembered
@pytest.mark.parametrize("many", [1, 20])
def test_it_takes_as_many_queries_for_much_as_for_little(many: int, admin_client: Client) -> None:
    """Two for the user; the miner, the settings, its accounts, its incidents by type; one for each class, as in a pick;
    the follower's report on collateral, and its block; holds and two kinds of receipts; its incidents by day, its
    decisions; and, for the page and for a class without allowance, six that tell what of the chain keeps allowance
    away."""
    declare({"anna": 30})
    source("collateral", NOW, block=NEWEST)
    for _ in range(many):
        report("anna")
        reserve(seconds=6, job=uuid4())
        decided("anna")
        receive(JobStarted)
    report("bert", executor_class=OTHER_CLASS)
    Account.objects.create(miner_id="anna", executor_class=ExecutorClass.always_on__test)
    assert len(show(admin_client).context["classes"]) == 2
    assert len(queries(lambda: show(admin_client))) == 2 + 4 + 2 + 2 + 3 + 3 + 2 * 6


def test_the_age_of_the_collateral_is_shown(admin_client: Client) -> None:
    def read() -> str:
        (said,) = re.findall(r'<span class="quiet">([^<]*)</span></dd>', show(admin_client).content.decode())
        return str(said)

    assert read() == "no chain follower reads it"
    follow(NOW)
    source("collateral", NOW, good_at=None)
    assert read() == "no chain follower has read it yet"
    source("collateral", NOW)
    assert read() == "no chain follower has read it yet"
    source("collateral", NOW, block=NEWEST + 9)
    assert read() == f"read at block {NEWEST + 9}"
    Block.objects.filter(pk=NEWEST).update(timestamp=NOW - 5 * MINUTE)
    source("collateral", NOW, block=NEWEST)
    assert read() == f"read at block {NEWEST}, minted 5 min ago"
    source("collateral", NOW, block=NEWEST, unknown={"anna": (NOW - 3 * HOUR).isoformat()})
    since = f"{NOW - 3 * HOUR:%Y-%m-%d %H:%M:%S} UTC"
    assert read() == f"unknown since {since} (3 h ago): this is the last known amount"
