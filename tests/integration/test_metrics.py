"""What a router counts and times, and who may see it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import time_machine
from constance import config
from django.contrib.auth.models import User
from django.db import DatabaseError, connection, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from pytest_django import Settings

from allowance import allowance
from allowance.models import Miner, Reservation
from allowance.types import ExecutorClass, LockTimeout
from routing import routing
from routing.access import tokens
from routing.decision.book import DryBook
from routing.decision.model import Gate
from routing.decision.pipeline import decide
from routing.sockets.messages import TYPES, Reason
from routing.types import MinerIncidentType, Outcome
from routing.watch import health
from routing.watch.views import exposition
from tests.factories import EXECUTOR_CLASS, job_request
from tests.follower import follow_all
from tests.integration.test_locks import Holder, needs_row_locks
from tests.ledgers import CLASS, FIRST_BLOCK, fill_ledger
from tests.programs import Worker
from tests.queries import postgresql, queries, scans
from tests.sockets import permitted

pytestmark = pytest.mark.usefixtures("ledger_clean_at_the_end")

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
DETAILS = "connection to postgres://router:hunter2@db:5432/router failed"


def bearer(*scopes: str) -> dict[str, str]:
    """Return the headers of the holder of a new token."""
    _, token = tokens.issue("scraper", scopes or ["metrics"], dt.timedelta(days=1))
    return {"Authorization": f"Bearer {token}"}


def scraped(client: Client, headers: dict[str, str]) -> Samples:
    """Return what a scrape gets to know."""
    response = client.get("/metrics", headers=headers)
    assert response.status_code == 200, response.content
    families = text_string_to_metric_families(response.content.decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


def counted(name: str, **labels: str) -> float:
    """Return a sample of this process as it is now."""
    return REGISTRY.get_sample_value(name, labels) or 0


def stages() -> dict[str, float]:
    return {stage: counted("router_stage_seconds_count", stage=stage) for stage in ("gather", "rank", "reserve")}


def left() -> dict[Gate, float]:
    return {gate: counted("router_candidates_left_sum", gate=gate) for gate in Gate}


def test_the_stages_of_a_live_pick_are_timed_but_not_those_of_a_dry_run_or_a_fixed_route() -> None:
    fill_ledger("anna")
    before, took = stages(), counted("router_pick_seconds_sum", outcome="ROUTED")
    decide(job_request(), DryBook(), now=timezone.now())
    routing().pick(job_request(on_trusted_miner=True))
    assert stages() == before
    shorter = sum(counted("router_stage_seconds_sum", stage=stage) for stage in before)
    routing().pick(job_request())
    assert stages() == {stage: count + 1 for stage, count in before.items()}
    longer = sum(counted("router_stage_seconds_sum", stage=stage) for stage in before)
    assert 0 < longer - shorter < counted("router_pick_seconds_sum", outcome="ROUTED") - took


def test_what_a_pick_had_left_after_each_gate_is_counted() -> None:
    fill_ledger("anna", "bert", "cleo", "dora", "emil", "fred", executors=1)
    Miner.objects.filter(pk="fred").update(port=0)
    for hotkey in ("anna", "bert", "dora", "emil", "fred"):
        allowance().record_collateral(hotkey=hotkey, wei=5)
    start: dict[str, Any] = {"executor_class": CLASS, "job_start_block": FIRST_BLOCK + 20}
    allowance().reserve_allowance(miner="bert", allowance_seconds=120, **start)  # all it has
    allowance().reserve_allowance(miner="dora", allowance_seconds=6, job_uuid=uuid4(), **start)  # its one executor
    config.DYNAMIC_MINIMUM_COLLATERAL_AMOUNT_WEI = 5
    before = left()
    assert routing().pick(job_request(12), exclude=["anna"]).miner.hotkey_ss58 == "emil"
    passed = {gate: count - before[gate] for gate, count in left().items()}
    assert passed == {
        Gate.EXCLUDED: 5,
        Gate.ALLOWANCE: 4,
        Gate.COLLATERAL: 3,
        Gate.ADDRESS: 2,
        Gate.EXECUTORS: 1,
        Gate.RESERVATION: 1,
        Gate.LOCK: 1,
    }


@needs_row_locks
def test_a_miner_that_is_passed_over_because_others_have_it_is_counted() -> None:
    fill_ledger("anna", "bert", "cleo")
    before = counted("router_lock_skips_total"), counted("router_lock_waits_total")
    with Holder("anna"):
        assert routing().pick(job_request(12)).miner.hotkey_ss58 == "bert"
    assert (counted("router_lock_skips_total"), counted("router_lock_waits_total")) == (before[0] + 1, before[1])


@needs_row_locks
def test_a_wait_for_a_miner_that_others_have_is_counted_and_timed(settings: Settings) -> None:
    settings.ALLOWANCE_LOCK_TIMEOUT = 0.1
    fill_ledger("anna")
    waits, seconds = counted("router_lock_waits_total"), counted("router_lock_wait_seconds_total")
    with Holder("anna"), pytest.raises(LockTimeout):
        routing().pick(job_request(12))
    assert counted("router_lock_waits_total") == waits + 1
    assert 0.1 <= counted("router_lock_wait_seconds_total") - seconds < 5


def test_an_incident_is_counted_once_and_only_if_it_is_stored() -> None:
    kind = {"type": "MINER_HORDE_FAILED", "executor_class": CLASS}
    before, job = counted("router_incidents_total", **kind), uuid4()
    with transaction.atomic():
        routing().report_incident(MinerIncidentType.MINER_HORDE_FAILED, "anna", str(job), EXECUTOR_CLASS)
        transaction.set_rollback(True)
    assert counted("router_incidents_total", **kind) == before
    for _ in range(2):
        routing().report_incident(MinerIncidentType.MINER_HORDE_FAILED, "anna", str(job), EXECUTOR_CLASS)
    assert counted("router_incidents_total", **kind) == before + 1


def test_every_label_is_there_before_anything_happens(client: Client) -> None:
    def labels(name: str, label: str) -> set[str]:
        return {dict(of)[label] for found, of in scraped(client, headers) if found == name}

    headers = bearer()
    assert labels("router_pick_seconds_count", "outcome") == {*Outcome}
    assert labels("router_messages_total", "type") == {*TYPES, "unreadable"}
    assert labels("router_rejected_total", "reason") == {*Reason}
    assert labels("router_incidents_total", "type") == set(MinerIncidentType)
    assert labels("router_incidents_total", "executor_class") == {*ExecutorClass}
    assert labels("router_candidates_left_count", "gate") == {*Gate}
    assert labels("router_stage_seconds_count", "stage") == set(stages())


def test_a_scrape_counts_the_reservations_that_live_and_those_that_lapsed_untidied(client: Client) -> None:
    fill_ledger("anna", "bert", executors=9)
    for _ in range(3):
        routing().pick(job_request(12), exclude=["bert"])
    allowance().undo_allowance_reservation(Reservation.objects.earliest("pk").pk)
    headers = bearer()
    with time_machine.travel(timezone.now() + dt.timedelta(minutes=10)):
        allowance().reserve_allowance(
            miner="bert", executor_class=CLASS, allowance_seconds=6, job_start_block=FIRST_BLOCK + 20
        )
        samples = scraped(client, headers)
    assert value(samples, "router_reservations", state="live") == 1
    assert value(samples, "router_reservations", state="expired") == 2
    assert 612 <= (value(samples, "router_newest_block_age_seconds") or 0) < 660
    assert value(samples, "router_database_up") == 1


def test_without_blocks_there_is_no_age_of_the_newest(client: Client) -> None:
    samples = scraped(client, bearer())
    assert value(samples, "router_newest_block_age_seconds") is None
    assert value(samples, "router_reservations", state="live") == 0


@postgresql
def test_counting_the_reservations_reads_the_partial_index() -> None:
    fill_ledger("anna")
    now = timezone.now()
    routing().pick(job_request())
    (account,) = Reservation.objects.values_list("account", flat=True)
    ended = {"state": "spent", "ended_at": now, "created_at": now, "expires_at": now + dt.timedelta(1)}
    Reservation.objects.bulk_create(Reservation(account_id=account, blocks=[1], **ended) for _ in range(5000))
    (sql,) = [sql for sql in queries(health.read_ledger) if "allowance_reservation" in sql]
    try:
        assert scans(sql) == {"reservation_held"}
    finally:
        Reservation.objects.filter(state="spent").delete()


@pytest.mark.parametrize(("followed", "statements"), [(False, 3), (True, 5)])
def test_the_ledger_and_the_follower_are_read_in_few_statements_and_the_clock_in_one(
    followed: bool, statements: int
) -> None:
    if followed:
        follow_all()
    with CaptureQueriesContext(connection) as captured:
        exposition(health.read_ledger())
    assert len(captured) == statements + (connection.vendor == "postgresql")


@contextmanager
def no_database() -> Iterator[None]:
    def fail(*_: object) -> None:
        raise DatabaseError(DETAILS)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseDatabaseWrapper, "cursor", fail)
        yield


def test_without_the_database_a_token_shows_the_rest_of_the_metrics(client: Client) -> None:
    headers, other = bearer(), bearer("jobs")
    with no_database():
        samples = scraped(client, headers)
        assert client.get("/metrics", headers=other).status_code == 403
        assert client.get("/metrics", headers={"Authorization": "Bearer nonsense"}).status_code == 401
    assert value(samples, "router_database_up") == 0
    assert value(samples, "router_reservations", state="live") is None
    assert value(samples, "router_sockets") == 0
    assert value(scraped(client, headers), "router_database_up") == 1


def test_without_the_database_nobody_who_is_logged_in_is_known(client: Client) -> None:
    client.force_login(User.objects.create_superuser("boss"))
    for headers in ({}, {"Authorization": "Basic what a proxy lets everybody in with"}):
        assert client.get("/metrics", headers=headers).status_code == 200
        with no_database():
            assert client.get("/metrics", headers=headers).status_code == 401


def test_the_metrics_are_for_whoever_has_a_token_for_them(client: Client) -> None:
    for headers in ({}, {"Authorization": "Bearer nonsense"}):
        response = client.get("/metrics", headers=headers)
        assert (response.status_code, response["WWW-Authenticate"]) == (401, "Bearer")
    assert client.get("/metrics", headers=bearer("jobs", "events")).status_code == 403
    response = client.get("/metrics", headers=bearer("metrics"))
    assert (response.status_code, response["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")


@pytest.mark.parametrize(("codename", "status"), [("view_metrics", 200), ("route_jobs", 403)])
def test_the_metrics_are_for_users_with_the_permission(codename: str, status: int, client: Client) -> None:
    client.force_login(permitted("clerk", codename))
    assert client.get("/metrics").status_code == status


def test_a_scrape_sums_what_all_processes_counted_and_forgets_what_the_dead_had_in_hand(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    headers, names = bearer(), ("router_messages_total", "router_stage_seconds_sum", "router_sockets")

    def seen() -> list[float | None]:
        samples = scraped(client, headers)
        messages, seconds, sockets = names
        return [
            value(samples, messages, type="job.new"),
            value(samples, seconds, stage="gather"),
            value(samples, sockets),
        ]

    with Worker("tests.integration.counting") as first, Worker("tests.integration.counting") as second:
        first.ask("count", number=3)
        second.ask("count", number=4)
        assert seen() == [7, 7, 7]
        first.end()
        assert seen() == [7, 7, 4]
        assert [*tmp_path.glob("gauge_live*")] == [tmp_path / f"gauge_livesum_{second.process.pid}.db"]
        assert value(scraped(client, headers), "router_database_up") == 1
