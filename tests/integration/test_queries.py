"""How many queries a pick makes, what it locks, and which index serves it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.db.models import BigIntegerField, Count
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from allowance import allowance
from allowance.models import Reservation, held_at
from allowance.oversight.audit import check_ledger
from allowance.plumbing.buckets import UtcDay
from allowance.plumbing.compiled import Compiled, Param
from allowance.plumbing.lists import uuids_beginning
from allowance.types import ExecutorClass
from receipts import receipts
from receipts.models import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt
from routing import routing
from routing.decision import in_force, pipeline
from routing.decision.book import DryBook
from routing.decision.model import Decision
from routing.decision.pipeline import decide
from routing.decision.reading import CHANGES, WHOLE
from routing.decision.reliability import incident_counts as count_incidents
from routing.models import MinerIncident
from routing.pages import incident_counts
from tests.benchmarks import past
from tests.clock import DAY, HOUR, MINUTE
from tests.factories import OTHER_CLASS, job_request
from tests.jobs import route
from tests.ledgers import CLASS, FIRST_BLOCK, NEWEST, fill_ledger
from tests.queries import plan, postgresql, queries, scans, scans_of_any_values
from tests.rows import AXON, FAILED, hold, mint, report

pytestmark = pytest.mark.django_db(transaction=True)


def verbs(call: Callable[[], object]) -> list[str]:
    """Return the first words of the statements of a call."""
    return [sql.split()[0].strip("(") for sql in queries(call)]


IS_POSTGRESQL = connection.vendor == "postgresql"

READING = ["SELECT"]
RECORDING = ["INSERT"]
"""The decision, into the log."""

HOLDING = ["WITH"] if IS_POSTGRESQL else ["UPDATE", "INSERT", *RECORDING]
"""Updates the account, and inserts the reservation and the record."""

RESERVING = HOLDING if IS_POSTGRESQL else ["BEGIN", *HOLDING, "COMMIT"]


@pytest.mark.parametrize("miners", [1, 20])
def test_a_pick_makes_two_statements_or_six_on_sqlite(miners: int) -> None:
    fill_ledger(*(f"miner_{i}" for i in range(miners)))
    report()
    routing().pick(job_request())
    assert verbs(lambda: routing().pick(job_request())) == READING + RESERVING


BOUNDING = ["SELECT"] if IS_POSTGRESQL else []
"""Says how long to wait for rows."""

CLOCK = BOUNDING
"""Asks the server for the time."""


def test_a_route_over_the_socket_makes_one_statement_more_and_bounds_its_waits() -> None:
    fill_ledger("anna", executors=4)
    report()
    routing().pick(job_request())
    said = queries(lambda: route(job_request()))
    also = [] if IS_POSTGRESQL else ["INSERT"]
    assert [sql.split()[0].strip("(") for sql in said] == [
        "SELECT", *READING, *RESERVING[: -1 if also else None], *also, *RESERVING[-1:][: len(also)]
    ]  # fmt: skip
    assert not IS_POSTGRESQL or "set_config('lock_timeout'" in said[-1]


def test_a_route_that_is_told_again_takes_no_pick() -> None:
    fill_ledger("anna")
    request = job_request()
    route(request)
    assert verbs(lambda: route(request)) == ["SELECT", *CLOCK, "SELECT", "BEGIN", *BOUNDING, "UPDATE", "COMMIT"]


def test_a_pick_after_a_block_reads_the_miners_and_the_blocks_anew() -> None:
    fill_ledger("anna")
    report()
    routing().pick(job_request())
    mint(NEWEST + 1, timezone.now())
    assert verbs(lambda: routing().pick(job_request())) == READING + ["SELECT"] * 3 + RESERVING


def test_a_pick_after_an_incident_counts_anew() -> None:
    fill_ledger("anna", executors=9)
    report()
    routing().pick(job_request())
    report(executor_class=OTHER_CLASS)
    assert verbs(lambda: routing().pick(job_request())) == READING + RESERVING
    report()
    assert verbs(lambda: routing().pick(job_request())) == ["SELECT", *READING, *RESERVING]


def test_incidents_that_nobody_gave_a_version_count_too() -> None:
    """A fixture's, say, or those of another program: only a pick of their class makes one statement more."""
    fill_ledger("anna", executors=4)
    said = {"type": FAILED, "hotkey_ss58address": "anna", "timestamp": timezone.now(), "executor_class": CLASS}
    for expected in (-0.25, -0.5):
        MinerIncident.objects.create(**said, job_uuid=job_request().uuid)
        with CaptureQueriesContext(connection) as captured:
            (candidate,) = decide(job_request(12), DryBook(), now=timezone.now()).candidates
        assert candidate.score == expected
    assert [query["sql"].split()[0].strip("(") for query in captured] == ["SELECT", *READING]


def test_a_miner_that_moved_since_it_was_read_gets_the_job_at_its_new_address(monkeypatch: pytest.MonkeyPatch) -> None:
    fill_ledger("anna")
    routing().pick(job_request())
    settle = pipeline.settle

    def settle_late(*asked: Any, **how: Any) -> Decision:
        moved = {"anna": {"address": "10.9.9.9", "ip_version": 4, "port": 1}}
        allowance().record_manifests(block=FIRST_BLOCK + 1, axons=moved, executors={"anna": {CLASS: 2}})
        return settle(*asked, **how)

    monkeypatch.setattr(pipeline, "settle", settle_late)
    assert routing().pick(job_request(12)).miner.address == "10.9.9.9"


def test_a_pick_looks_again_at_an_account_that_changed_since_it_read(monkeypatch: pytest.MonkeyPatch) -> None:
    fill_ledger("anna", executors=3)
    routing().pick(job_request())
    settle = pipeline.settle

    def settle_late(*asked: Any, **how: Any) -> Decision:
        monkeypatch.setattr(pipeline, "settle", settle)
        hold("anna", 6)
        return settle(*asked, **how)

    monkeypatch.setattr(pipeline, "settle", settle_late)
    with CaptureQueriesContext(connection) as captured:
        route = routing().pick(job_request(12))
    said = [query["sql"].split()[0].strip("(") for query in captured]
    counting = ["SELECT"]  # the class never had an incident
    missing = ["WITH"] if IS_POSTGRESQL else ["BEGIN", "UPDATE", "COMMIT"]
    expected = [*missing, *READING, *counting, *RESERVING]
    assert said[-len(expected) :] == expected
    assert route.allowance_blocks == [FIRST_BLOCK + 3]


def test_a_refused_pick_locks_nothing_and_writes_why() -> None:
    fill_ledger("anna")
    with CaptureQueriesContext(connection) as captured, pytest.raises(Exception, match="No miner has 3600 s"):
        routing().pick(job_request(3600))
    sql = [query["sql"].strip(" (") for query in captured]
    assert [s.split()[0] for s in sql if not s.startswith(("SELECT", "PRAGMA"))] == ["BEGIN", *RECORDING, "COMMIT"]
    assert not any("FOR UPDATE" in statement for statement in sql)


@postgresql
def test_a_pick_locks_one_account_as_it_writes_it_and_waits_for_none() -> None:
    fill_ledger("anna", "bert")
    statements = queries(lambda: routing().pick(job_request()))
    (lock,) = [sql for sql in statements if "FOR NO KEY UPDATE" in sql]
    assert lock.startswith('WITH part_0 AS (UPDATE "allowance_account"')
    assert '"version" = ' in lock
    assert "SKIP LOCKED" in lock


@postgresql
@pytest.mark.parametrize("end", ["spend_allowance", "undo_allowance_reservation"])
def test_an_end_locks_the_account_before_it_reads_the_reservation(end: str) -> None:
    fill_ledger("anna")
    allowance().undo_allowance_reservation(routing().pick(job_request()).allowance_reservation_id or 0)
    reservation = routing().pick(job_request()).allowance_reservation_id
    statements = queries(lambda: getattr(allowance(), end)(reservation))
    begin, patience, lock, read, *writes, commit = statements
    assert (begin, commit) == ("BEGIN", "COMMIT")
    assert "lock_timeout" in patience
    assert 'FOR NO KEY UPDATE OF "allowance_account"' in lock
    assert "SKIP LOCKED" not in lock
    assert read.startswith("SELECT")
    assert "clock_timestamp()" in read
    assert [sql.split()[0] for sql in writes] == ["UPDATE", "UPDATE"]


def test_taking_in_a_block_writes_three_rows_however_many_miners_there_are() -> None:
    fill_ledger(*(f"miner_{i}" for i in range(50)))
    statements = queries(lambda: mint(NEWEST + 1, timezone.now()))
    writes = [sql for sql in statements if sql.split()[0] in {"INSERT", "UPDATE"}]
    assert len(writes) <= 3  # the first block ever also makes the chain lock
    assert all("allowance_block" in sql or "allowance_chainlock" in sql for sql in writes)


@postgresql
def test_the_busy_count_is_served_by_indexes() -> None:
    now = timezone.now()
    names = {"miner_hotkey": "anna", "validator_hotkey": "v"}
    jobs = [job_request().uuid for _ in range(5000)]
    JobStartedReceipt.objects.bulk_create(
        JobStartedReceipt(**names, job_uuid=job, executor_class=CLASS, timestamp=now - i * HOUR, ttl=60)
        for i, job in enumerate(jobs)
    )
    over = {**names, "timestamp": now, "time_started": now, "time_took_us": 1, "score_str": "1", "block_numbers": []}
    JobFinishedReceipt.objects.bulk_create(JobFinishedReceipt(**over, job_uuid=job) for job in jobs[1:])
    fill_ledger("anna", "bert")
    for _ in range(3):
        routing().pick(job_request(12))
    asked = {"executor_class": CLASS, **in_force.names()}
    for statement, more in ((WHOLE, {"at": now}), (CHANGES, {"since": 2**62})):
        read = scans(*statement.statement(connection).bound(connection, {**asked, **more}))
        assert not {"router_receipts_jobstartedreceipt", "router_receipts_jobfinishedreceipt"} & read
    for sql in queries(lambda: receipts().get_busy_executor_count(CLASS, now)):
        read = scans(sql)
        assert "started_valid" in read
        assert not {"router_receipts_jobstartedreceipt", "router_receipts_jobfinishedreceipt"} & read
    with CaptureQueriesContext(connection) as captured:
        assert receipts().get_busy_executor_count(CLASS, now) == {"anna": 1}
    assert len(captured) == 1


@postgresql
def test_a_plan_for_any_values_reads_no_table_of_receipts_as_a_whole() -> None:
    """PostgreSQL plans the reading once. It can't know then that few receipts are new, and would join all of them."""
    fill_ledger("anna", "bert")
    with connection.cursor() as cursor:
        cursor.execute(past.RECEIPTS, {"first": 0, "last": 19_999})
    accepted = ("job_uuid", "miner_hotkey", "validator_hotkey", "timestamp", "ttl")
    JobAcceptedReceipt.objects.bulk_create(
        JobAcceptedReceipt(**row, time_accepted=row["timestamp"]) for row in JobStartedReceipt.objects.values(*accepted)
    )
    tables = {model._meta.db_table for model in (JobStartedReceipt, JobAcceptedReceipt, JobFinishedReceipt)}
    read = scans_of_any_values(CHANGES, executor_class=CLASS, since=2**62, **in_force.names())
    assert not tables & read
    assert {"started_changed", "accepted_changed", "finished_changed"} <= read
    new = JobStartedReceipt.objects.changed_since(Param("since", BigIntegerField())).values("job_uuid")
    joined = Compiled(lambda: JobAcceptedReceipt.objects.filter(job_uuid__in=new).values_list("pk"))
    assert tables & scans_of_any_values(joined, since=2**62)


@postgresql
def test_counting_incidents_reads_the_index_of_class_and_time() -> None:
    now = timezone.now()
    of_anna, classes = {"type": FAILED, "hotkey_ss58address": "anna"}, list(ExecutorClass)
    MinerIncident.objects.bulk_create(
        MinerIncident(**of_anna, executor_class=classes[i % 5], job_uuid=uuid4(), timestamp=now - i * MINUTE)
        for i in range(5000)
    )
    (sql,) = queries(lambda: count_incidents(CLASS, now, DAY, version=None))
    assert "incident_that_counts" in scans(sql)


@postgresql
def test_held_reservations_are_found_by_the_partial_index() -> None:
    """Both by accounts that changed, and by the queries of the admin and of whoever reserves without routing."""
    fill_ledger(*(f"miner_{i}" for i in range(200)))
    now = timezone.now()
    routing().pick(job_request())
    (account,) = Reservation.objects.values_list("account", flat=True)
    spent = {"blocks": [1], "created_at": now, "expires_at": now + DAY, "state": "spent", "ended_at": now}
    Reservation.objects.bulk_create(Reservation(account_id=account, **spent) for _ in range(5000))
    held = Reservation.objects.filter(held_at(now), account=account)
    assert "reservation_held" in scans(*held.query.sql_with_params())
    of_class = {"executor_class": CLASS, **in_force.names()}
    read = scans(*CHANGES.statement(connection).bound(connection, {**of_class, "since": 2**62}))
    assert "reservation_held" in read
    assert not {"allowance_reservation", "allowance_miner"} & read


@postgresql
def test_the_pages_of_incidents_are_served_by_indexes() -> None:
    """And the days of many incidents are known to be few, or PostgreSQL would group them one after the other."""
    now, days = timezone.now(), 50
    MinerIncident.objects.bulk_create(
        MinerIncident(
            type=FAILED,
            hotkey_ss58address=f"miner_{i % 100}",
            executor_class=CLASS,
            job_uuid=uuid4(),
            timestamp=now - days * DAY * (i / 10_000),
            **({"voided_at": now, "voided_by": "boss", "void_reason": "why not"} if i % 500 == 7 else {}),
        )
        for i in range(10_000)
    )
    everything = MinerIncident.objects.order_by("-timestamp", "-pk")
    table, newest, of_miner = "routing_minerincident", {"incident_newest"}, {"one_incident_per_miner_and_job"}
    for listed, indexes in (
        (everything, newest),
        (everything.filter(executor_class=CLASS, type="MINER_JOB_FAILED"), newest),
        (everything.filter(hotkey_ss58address="miner_7"), of_miner),
        (everything.filter(hotkey_ss58address__in=["miner_7", "miner_8"]), of_miner),
        (everything.filter(job_uuid=job_request().uuid), {"incident_of_job"}),
        (everything.filter(job_uuid__range=uuids_beginning("0e0d0c")), {"incident_of_job"}),
        (everything.filter(voided_at__isnull=False), {"incident_voided"}),
    ):
        assert scans(*listed[:100].query.sql_with_params()) == indexes
    assert table not in scans(incident_counts.HOTKEYS)
    read = queries(lambda: next(islice(incident_counts.newest_first(MinerIncident.objects.all(), 10), 2, None)))
    assert [scans(sql) for sql in read] == [newest] * 3
    by_day = MinerIncident.objects.values_list(UtcDay("timestamp")).annotate(Count("pk"))
    assert days / 2 < plan(*by_day.query.sql_with_params())[0]["Plan Rows"] < days * 2


@pytest.mark.parametrize("changed", [True, False])
def test_a_manifest_sync_takes_as_many_statements_and_parameters_for_many_miners_as_for_few(changed: bool) -> None:
    """With a parameter for each value it would take a minute and a half for 10,000 miners."""
    taken, classes = [], [executor_class.value for executor_class in ExecutorClass]
    for number, miners in enumerate((2, 400)):
        axons = {f"miner_{i}": AXON for i in range(miners)}
        for block in (2 * number, 2 * number + 1):
            counts = {name: dict.fromkeys(classes, 3 if changed and block % 2 else 2) for name in axons}
            moved = {name: {**axon, "port": 1 + (block % 2 if changed else 0)} for name, axon in axons.items()}
            parameters: list[int] = []

            def count(
                execute: Callable[..., Any], sql: str, given: Any, *rest: Any, into: list[int] = parameters
            ) -> Any:
                into.append(len(given or ()))
                return execute(sql, given, *rest)

            with connection.execute_wrapper(count):
                allowance().record_manifests(block=block, axons=moved, executors=counts)
        taken.append(parameters)
    assert taken[0] == taken[1]
    assert max(taken[0]) < 20
    assert list(check_ledger()) == []
