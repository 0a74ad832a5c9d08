"""A miner that can't be reached gets no job, and every text says where a miner listens in one way."""

# ruff: noqa: S104 (where miners listen, not where we do)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from constance import config
from django.core.exceptions import ImproperlyConfigured
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from allowance import allowance
from allowance.models import Account, Reservation, new_version
from allowance.types import Miner as MinerValue
from routing import routing
from routing.access.admission import Visitor
from routing.decision.book import DryBook, LiveBook
from routing.decision.model import Gate
from routing.decision.pipeline import decide
from routing.log import replay
from routing.models import DecisionRecord, RoutedJob
from routing.sockets import jobs
from routing.sockets.messages import Accepted, Finished, Reason, Started
from routing.types import AllMinersBusy, NotEnoughCollateralException
from tests.books import LateBook
from tests.complaints import complaints
from tests.factories import job_request, run_command
from tests.jobs import note, of, rejected, retried, routed, states
from tests.ledgers import CLASS, FIRST_BLOCK
from tests.pages import shown
from tests.rows import AXON, free

pytestmark = [pytest.mark.usefixtures("ledger_clean_at_the_end"), pytest.mark.miners("anna", "bert")]

JOB = ("--executor-class", CLASS, "--seconds", "12")
NOWHERE: dict[str, dict[str, Any]] = {
    "0.0.0.0": {"address": "0.0.0.0", "ip_version": 4, "port": 9000},
    "0.0.0.0:0": {"address": "0.0.0.0", "ip_version": 4, "port": 0},
    "::": {"address": "::", "ip_version": 6, "port": 9000},
    "long ::": {"address": "0:0:0:0:0:0:0:0", "ip_version": 6, "port": 9000},
    "mapped 0.0.0.0": {"address": "::ffff:0.0.0.0", "ip_version": 6, "port": 9000},
    "port 0": {"address": "10.0.0.9", "ip_version": 4, "port": 0},
    "version 0": {"address": "10.0.0.9", "ip_version": 0, "port": 9000},
    "nothing yet": {"address": "0.0.0.0", "ip_version": 0, "port": 0},
}


def announce(executors: int = 2, **axons: dict[str, Any]) -> None:
    counts = {name: {CLASS: executors} for name in axons}
    allowance().record_manifests(block=FIRST_BLOCK, axons=axons, executors=counts)


@pytest.mark.parametrize("axon", NOWHERE.values(), ids=NOWHERE)
def test_a_miner_without_an_address_gets_no_job_and_keeps_its_allowance(axon: dict[str, Any]) -> None:
    announce(anna=axon)
    assert list(free(12)) == ["anna", "bert"]
    assert [miner.hotkey_ss58 for miner in allowance().miners()] == ["bert"]
    assert routing().pick(job_request(12)).miner.hotkey_ss58 == "bert"
    with pytest.raises(
        AllMinersBusy, match="0 of 2 miners eligible: 1 excluded by the caller, 1 without an address"
    ) as busy:
        routing().pick(job_request(12), exclude=["bert"])
    assert "a miner without an address announces one" in str(busy.value)
    assert busy.value.reasons["anna"] == "the miner announces no address that can be reached"


@pytest.mark.parametrize(
    "address", ["fe80::1%eth0", "fe80::1%\0", "fe80::1%" + "a" * 400, "0x0", "0x0.0x0", "a.0x1f", "1.2.3"], ids=ascii
)
def test_what_is_neither_an_address_nor_a_host_name_is_refused_by_name(address: str) -> None:
    with pytest.raises(ValueError, match="The address of cleo must be an IP address or a host name"):
        announce(cleo={**AXON, "address": address})


def test_one_miner_without_an_address_does_not_stop_the_sync_of_others() -> None:
    announce(anna=NOWHERE["nothing yet"], cleo=AXON, executors=3)
    counts = {name: counts[CLASS] for name, counts in allowance().get_manifests().items()}
    assert counts == {"anna": 3, "bert": 2, "cleo": 3}


@pytest.mark.parametrize(
    ("axon", "miner", "endpoint"),
    [
        (("2001:DB8::1", 4, 9000), ("2001:db8::1", 6, 9000), "[2001:db8::1]:9000"),
        (("10.0.0.7", 6, 9000), ("10.0.0.7", 4, 9000), "10.0.0.7:9000"),
        (("miner-1.example", 6, 9000), ("miner-1.example", 6, 9000), "miner-1.example:9000"),
        (("miner_1", 4, 9000), ("miner_1", 4, 9000), "miner_1:9000"),
    ],
    ids=str,
)
def test_the_version_of_an_address_is_what_the_address_says(
    axon: tuple[Any, ...], miner: tuple[Any, ...], endpoint: str, admin_client: Client
) -> None:
    announce(anna=dict(zip(("address", "ip_version", "port"), axon, strict=True)))
    assert f"Routed to anna at {endpoint}, paid" in run_command("dry_run_routing", *JOB).out
    assert endpoint in shown(admin_client, "routing_miner", "anna")
    assert f"Routed to anna at {endpoint}, paid" in shown(admin_client, "routing_board")
    address, version, port = miner
    assert routing().pick(job_request(12)).miner == MinerValue(address, version, port, "anna")


def test_refusals_rank_collateral_over_address_over_busy() -> None:
    announce(anna=NOWHERE["port 0"], executors=1)
    config.DYNAMIC_MINIMUM_COLLATERAL_AMOUNT_WEI = 5
    allowance().record_collateral(hotkey="bert", wei=4)
    with pytest.raises(NotEnoughCollateralException, match="2 with a collateral below"):
        routing().pick(job_request(12))
    allowance().record_collateral(hotkey="anna", wei=5)
    with pytest.raises(AllMinersBusy, match="1 without an address"):
        routing().pick(job_request(12))
    allowance().record_collateral(hotkey="bert", wei=5)
    Account.objects.filter(miner="bert").update(executors=0, version=new_version())
    with pytest.raises(AllMinersBusy, match=r"1 without an address, 1 busy.*Retry when a job finishes"):
        routing().pick(job_request(12))
    Account.objects.filter(miner="bert").update(executors=2, version=new_version())


def test_an_address_that_is_gone_before_the_lock_is_seen_under_it() -> None:
    """What a pick has read may be old by the time at which it has the account."""
    late = LateBook()
    announce(anna=NOWHERE["port 0"])
    decision = decide(job_request(12), late, now=timezone.now(), exclude=["bert"])
    assert (decision.route, decision.counts) == (None, {Gate.EXCLUDED: 1, Gate.ADDRESS: 1})


def test_a_record_keeps_whether_an_address_was_known_and_is_decided_alike_again() -> None:
    announce(anna=NOWHERE["port 0"])
    with pytest.raises(AllMinersBusy):
        routing().pick(job_request(12), exclude=["bert"])
    record = DecisionRecord.objects.get()
    assert (record.outcome, record.counts) == ("ALL_MINERS_BUSY", {"excluded": 1, "address": 1})
    announce(anna=AXON)  # what it announces later changes nothing
    assert replay.differences(record) == []
    assert record.candidates is not None
    place = record.candidates["columns"].index("reachable")
    for row in record.candidates["rows"]:
        row[place] = True
    assert replay.differences(record)


def test_the_board_the_dry_run_and_the_socket_say_so(admin_client: Client) -> None:
    announce(anna=NOWHERE["0.0.0.0:0"], bert=NOWHERE["::"])
    page = shown(admin_client, "routing_board")
    assert page.count('<span class="bad">address</span>') == 2
    assert "address: 2" in page
    told = json.loads(run_command("dry_run_routing", *JOB, "--format", "json").out)
    assert (told["outcome"], told["counts"]) == ("ALL_MINERS_BUSY", {"address": 2})
    assert "not reachable</span>: 0.0.0.0:0 (IPv4)<" in shown(admin_client, "routing_miner", "anna")
    answer = rejected(job_request(12))
    assert (answer.reason, answer.counts) == (Reason.ALL_MINERS_BUSY, {Gate.ADDRESS: 2})
    assert answer.retry_after_seconds is None


def fixed(settings: Settings, prefix: str, address: object, port: object) -> None:
    settings.DEBUG_MINER_KEY = "anna" if prefix == "DEBUG_MINER" else ""
    setattr(settings, f"{prefix}_ADDRESS", address)
    setattr(settings, f"{prefix}_PORT", port)


@pytest.mark.parametrize("prefix", ["DEBUG_MINER", "TRUSTED_MINER"])
@pytest.mark.parametrize(("address", "port"), [("0.0.0.0", 9), ("::", 9), ("10.0.0.1", 0), ("10.0.0.1", None), ("", 9)])
def test_a_fixed_miner_that_can_t_be_reached_is_a_setting_to_correct(
    prefix: str, address: object, port: object, settings: Settings, tmp_path: Path
) -> None:
    fixed(settings, prefix, address, port)
    request = job_request(12, on_trusted_miner=True)
    with pytest.raises(ImproperlyConfigured, match=f"{prefix}.*can't be reached. Set {prefix}_ADDRESS"):
        routing().pick(request)
    assert [(m.id, prefix in m.msg) for m in complaints()] == [("routing.W001", True)]
    answer = rejected(request)
    assert (answer.reason, prefix in answer.sentence) == (Reason.UNAVAILABLE, False)
    (tmp_path / "job.json").write_text(request.model_dump_json())
    ended = run_command("dry_run_routing", "--job", tmp_path / "job.json")
    assert (ended.code, prefix in ended.err) == (2, True)
    assert not Reservation.objects.exists()


def test_a_page_names_the_setting_to_correct(settings: Settings, admin_client: Client) -> None:
    fixed(settings, "DEBUG_MINER", "0.0.0.0", 9)
    for page in (reverse("admin:routing_board"), reverse("admin:routing_miner", args=["anna"])):
        response = admin_client.get(page)
        assert response.status_code == 500
        assert "Set DEBUG_MINER_ADDRESS" in response.content.decode()


def test_a_debug_miner_without_settings_listens_where_the_chain_says(settings: Settings) -> None:
    fixed(settings, "DEBUG_MINER", "", 0)
    assert routing().pick(job_request(12)).miner == MinerValue("10.0.0.1", 4, 9000, "anna")
    assert complaints(databases=["default"]) == []


@pytest.mark.parametrize("recorded", [True, False])
def test_a_debug_miner_that_nobody_can_find_is_a_setting_to_correct(recorded: bool, settings: Settings) -> None:
    fixed(settings, "DEBUG_MINER", "", 0)
    if recorded:
        announce(anna=NOWHERE["0.0.0.0:0"])
    else:
        settings.DEBUG_MINER_KEY = "nina"
    with pytest.raises(ImproperlyConfigured, match="DEBUG_MINER"):
        routing().pick(job_request(12))
    assert [m.id for m in complaints(databases=["default"])] == ["routing.W001"]


def test_a_trusted_miner_without_settings_is_a_setting_to_correct(settings: Settings) -> None:
    fixed(settings, "TRUSTED_MINER", "", 0)
    with pytest.raises(ImproperlyConfigured, match=r"TRUSTED_MINER has no address\. Set TRUSTED_MINER_ADDRESS"):
        routing().pick(job_request(12, on_trusted_miner=True))
    assert [m.id for m in complaints(include_deployment_checks=True)] == ["routing.W001"]


def test_the_dry_run_and_the_pick_agree_on_who_can_be_reached() -> None:
    announce(anna=NOWHERE["::"])
    request = job_request(12)
    dry = decide(request, DryBook(), now=timezone.now())
    live = decide(request, LiveBook(), now=timezone.now())
    for decision in (dry, live):
        assert decision.route is not None
        assert (decision.route.miner.hotkey_ss58, decision.counts) == ("bert", {Gate.ADDRESS: 1})


def test_a_route_whose_miner_has_lost_its_address_is_released_and_replaced() -> None:
    announce(anna=AXON, bert=AXON)
    request = job_request()
    first = routed(request)
    lost, other = (first.route.miner.hotkey_ss58, {"anna": "bert", "bert": "anna"}[first.route.miner.hotkey_ss58])
    where = {"anna": AXON, "bert": AXON, lost: NOWHERE["nothing yet"]}
    announce(2, anna=where["anna"], bert=where["bert"])
    second = routed(request)
    assert second.route.miner.hotkey_ss58 == other
    assert retried(first).route == second.route
    assert states() == {lost: "released", other: "held"}


def test_a_job_that_starts_while_its_route_is_asked_for_again_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts after the row was read, and before the route is given up."""
    announce(anna=AXON, bert=AXON)
    request = job_request()
    first = routed(request)
    where = {"anna": AXON, "bert": AXON, first.route.miner.hotkey_ss58: NOWHERE["nothing yet"]}
    announce(2, anna=where["anna"], bert=where["bert"])
    find, starting = jobs._find, iter([lambda: note(of(first, Started))])

    def find_and_start(uuid: UUID, by: Visitor) -> RoutedJob | None:
        job = find(uuid, by)
        next(starting, lambda: None)()
        return job

    monkeypatch.setattr(jobs, "_find", find_and_start)
    assert routed(request).route.allowance_reservation_id == first.route.allowance_reservation_id


@pytest.mark.parametrize("kind", [Started, Accepted])
def test_a_job_keeps_its_second_route_too_once_it_has_started(kind: type[Started | Accepted]) -> None:
    """A job has one receipt of each kind: here they are of its first miner."""
    announce(anna=AXON, bert=AXON)
    request = job_request()
    first = routed(request)
    for receipt in (Started, Accepted):
        note(of(first, receipt))
    second = retried(first)
    miner = second.route.miner.hotkey_ss58
    note(of(second, kind))
    where = {"anna": AXON, "bert": AXON, miner: NOWHERE["nothing yet"]}
    announce(2, anna=where["anna"], bert=where["bert"])
    assert routed(request).route.allowance_reservation_id == second.route.allowance_reservation_id
    assert note(of(second, Finished)) == "spent"


def test_a_job_that_has_started_keeps_its_route_though_its_miner_has_lost_its_address() -> None:
    announce(anna=AXON, bert=AXON)
    request = job_request()
    first = routed(request)
    note(of(first, Started))
    miner = first.route.miner.hotkey_ss58
    where = {"anna": AXON, "bert": AXON, miner: NOWHERE["nothing yet"]}
    announce(2, anna=where["anna"], bert=where["bert"])
    assert routed(request).route.allowance_reservation_id == first.route.allowance_reservation_id
    assert note(of(first, Finished)) == "spent"
