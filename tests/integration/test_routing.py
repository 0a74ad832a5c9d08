"""Who gets a job: fixed routes, order of refusals, reliability, exclusion, many at once."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from uuid import uuid4

import pytest
from constance import config
from constance.models import Constance
from django.core.exceptions import ImproperlyConfigured
from pytest_django.fixtures import Settings

from allowance import allowance
from allowance.models import Reservation
from allowance.plumbing.threads import in_database_thread
from allowance.types import JobTooLong, NotEnoughAllowanceException
from routing import routing
from routing.models import MinerIncident
from routing.types import TRUSTED_MINER_FAKE_KEY, AllMinersBusy, MinerIncidentType, NotEnoughCollateralException
from tests.factories import EXECUTOR_CLASS, job_request
from tests.integration.test_metrics import counted
from tests.ledgers import fill_ledger
from tests.rows import report

pytestmark = pytest.mark.usefixtures("ledger_clean_at_the_end")


@pytest.mark.parametrize("stored", ["garbage", '{"__type__": "default", "__value__": -1}', '"7"'])
def test_a_bad_setting_is_nobody_s_bad_input(stored: str) -> None:
    fill_ledger("anna")
    Constance.objects.create(key="DYNAMIC_MINIMUM_COLLATERAL_AMOUNT_WEI", value=stored)
    with pytest.raises(ImproperlyConfigured, match="Correct it in the admin"):
        routing().pick(job_request())


def test_the_router_is_one() -> None:
    assert routing() is routing()


@pytest.mark.parametrize("seconds", [30, 5000, -5])
def test_the_debug_miner_gets_every_job(settings: Settings, seconds: int) -> None:
    settings.DEBUG_MINER_KEY, settings.DEBUG_MINER_ADDRESS, settings.DEBUG_MINER_PORT = "debug", "10.9.9.9", 4321
    route = routing().pick(job_request(seconds, on_trusted_miner=True))
    assert (route.miner.hotkey_ss58, route.miner.address, route.miner.port) == ("debug", "10.9.9.9", 4321)
    assert (route.allowance_blocks, route.allowance_reservation_id) == ([], None)


@pytest.mark.parametrize("seconds", [30, 5000])
def test_a_trusted_job_goes_to_the_pseudo_miner(settings: Settings, seconds: int) -> None:
    settings.TRUSTED_MINER_ADDRESS, settings.TRUSTED_MINER_PORT = "::1", 99
    route = routing().pick(job_request(seconds, on_trusted_miner=True))
    assert (route.miner.hotkey_ss58, route.miner.ip_version, route.miner.port) == (TRUSTED_MINER_FAKE_KEY, 6, 99)
    assert (route.allowance_blocks, route.allowance_reservation_id) == (None, None)


def test_every_pick_is_counted_and_logged_by_its_outcome(caplog: pytest.LogCaptureFixture) -> None:
    counts = partial(counted, "router_pick_seconds_count")
    fill_ledger("anna", executors=1)
    before = {outcome: counts(outcome=outcome) for outcome in ("ROUTED", "ALL_MINERS_BUSY", "NOT_ENOUGH_ALLOWANCE")}
    first, second, third = job_request(12), job_request(12), job_request(3600)
    with caplog.at_level(logging.INFO):
        route = routing().pick(first)
        for request in (second, third):
            with pytest.raises((AllMinersBusy, NotEnoughAllowanceException)):
                routing().pick(request)
    assert {outcome: counts(outcome=outcome) - count for outcome, count in before.items()} == dict.fromkeys(before, 1)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == f"Job {first.uuid!r}: routed to anna, reservation {route.allowance_reservation_id}"
    assert [request.uuid in line for request, line in zip((second, third), lines[1:], strict=True)] == [True, True]


def test_refusals_rank(caplog: pytest.LogCaptureFixture) -> None:
    fill_ledger("anna", executors=1)
    allowance().record_collateral(hotkey="anna", wei=4)
    config.DYNAMIC_MINIMUM_COLLATERAL_AMOUNT_WEI = 5
    with pytest.raises(JobTooLong):
        routing().pick(job_request(3601))
    with pytest.raises(NotEnoughAllowanceException) as nobody:
        routing().pick(job_request(3600))
    assert nobody.value.highest_available_allowance_ss58 == "anna"
    with caplog.at_level(logging.WARNING), pytest.raises(NotEnoughCollateralException):
        routing().pick(job_request(12))
    assert "Filtered out 1 miners" in caplog.text
    config.DYNAMIC_MINIMUM_COLLATERAL_AMOUNT_WEI = 4
    routing().pick(job_request(12))
    with pytest.raises(AllMinersBusy, match="0 of 1 miners eligible: 1 busy") as busy:
        routing().pick(job_request(12))
    assert busy.value.reasons == {"anna": "1 job ongoing on 1 executor"}


def test_incidents_lower_a_miner_and_count_once_per_job() -> None:
    fill_ledger("anna", "bert", executors=5)
    job = str(uuid4())
    report("anna", job)
    report("anna", job)
    report("bert", job)
    assert MinerIncident.objects.count() == 2
    assert routing().pick(job_request(12)).miner.hotkey_ss58 == "anna"
    report("anna")
    assert routing().pick(job_request(12)).miner.hotkey_ss58 == "bert"


def test_an_excluded_miner_is_not_asked() -> None:
    fill_ledger("anna", "bert")
    assert routing().pick(job_request(12), exclude=["anna"]).miner.hotkey_ss58 == "bert"
    with pytest.raises(NotEnoughAllowanceException):
        routing().pick(job_request(12), exclude=["anna", "bert"])


async def test_many_picks_at_once_share_nothing() -> None:
    await in_database_thread(fill_ledger)("anna", "bert", "cleo", executors=2)
    picks = (routing().pick_miner_for_job_request(job_request(12)) for _ in range(10))
    outcomes = await asyncio.gather(*picks, return_exceptions=True)
    routes = [o for o in outcomes if not isinstance(o, BaseException)]
    assert len(routes) == 6
    assert {type(o) for o in outcomes if isinstance(o, BaseException)} == {AllMinersBusy}
    given = [(r.miner.hotkey_ss58, block) for r in routes for block in r.allowance_blocks or []]
    assert len(given) == len(set(given))
    ids = {r.allowance_reservation_id for r in routes}
    assert ids == await in_database_thread(lambda: set(Reservation.objects.values_list("pk", flat=True)))()


async def test_an_incident_is_reported_from_a_coroutine() -> None:
    await routing().report_miner_incident(MinerIncidentType.MINER_HORDE_FAILED, "anna", str(uuid4()), EXECUTOR_CLASS)
    incident = await in_database_thread(MinerIncident.objects.get)()
    assert (incident.type, incident.hotkey_ss58address) == ("MINER_HORDE_FAILED", "anna")
