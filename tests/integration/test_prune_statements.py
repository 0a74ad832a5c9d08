"""What a prune asks of PostgreSQL: rows by their indexes, however many are to stay, and again when it deletes."""

from __future__ import annotations

import datetime as dt
import re
from threading import Thread
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection, models, transaction
from django.test.utils import CaptureQueriesContext

from allowance.models import Account, Block, Reservation
from receipts.models import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt
from routing.access.signatures import to_unix_ns
from routing.models import DecisionRecord, MinerIncident, Rejection, RoutedJob, UsedSignature
from routing.upkeep import pruning
from tests.clock import DAY, NOW, noon
from tests.factories import job_request
from tests.integration.past import SIDES, fill, reserve
from tests.integration.test_locks import somebody_waits
from tests.jobs import routed
from tests.ledgers import CLASS
from tests.queries import plan, postgresql, read_whole

pytestmark = [pytest.mark.django_db(transaction=True), postgresql, noon, pytest.mark.usefixtures("nothing_kept")]

ROWS = 4000
"""Of each kind; a tenth are past use."""


def record_many() -> list[type[models.Model]]:
    """Fill all tables that grow without end, and return their models."""
    fill(*(f"miner_{i}" for i in range(100)))
    accounts = list(Account.objects.values_list("pk", flat=True))
    rows: dict[type[models.Model], list[Any]] = {}

    def add(model: type[models.Model], **fields: Any) -> Any:
        rows.setdefault(model, []).append(model(**fields))
        return rows[model][-1]

    for i in range(ROWS):
        at = NOW - 2 * DAY if i < ROWS / 10 else NOW
        job = {"job_uuid": uuid4()}
        of_class = {"executor_class": CLASS}
        add(DecisionRecord, **job, **of_class, at=at, seconds=1, outcome="ROUTED", microseconds=1)
        fault = {"type": "MINER_JOB_FAILED", "hotkey_ss58address": "miner_1"}
        add(MinerIncident, **job, **of_class, **fault, timestamp=at)
        add(Rejection, **job, **of_class, miner="miner_1", timestamp=at, excused=True)
        add(UsedSignature, **job, signatory="us", signed_at_ns=to_unix_ns(at) + i)
        add(JobStartedReceipt, **SIDES, **job, **of_class, timestamp=at, ttl=60)
        add(JobAcceptedReceipt, **SIDES, **job, timestamp=at, time_accepted=at, ttl=60)
        add(JobFinishedReceipt, **SIDES, **job, timestamp=at, time_started=at, time_took_us=1)
        held = {"created_at": at, "expires_at": at + dt.timedelta(seconds=130)}
        released = {"state": "released", "ended_at": at, "blocks": [1000]}
        reservation = add(Reservation, **job, **held, **released, pk=i + 1, account_id=accounts[i % 100])
        routed_to = {"seconds": 30, "miner": "miner_1", "reservation": reservation}
        add(RoutedJob, uuid=job["job_uuid"], **of_class, **routed_to, routed_at=at)
        minted = NOW - 8 * DAY + (ROWS - i) * dt.timedelta(seconds=-12)
        add(Block, number=2000 + i, timestamp=minted, stake_share=0.5)
    for model, made in rows.items():
        model._default_manager.bulk_create(made)
    return list(rows)


def test_what_is_past_use_is_found_by_indexes() -> None:
    grown = {model._meta.db_table for model in record_many()}
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
    with CaptureQueriesContext(connection) as captured:
        rows = {kind.name: sum(batch.rows for batch in kind.prune()) for kind in pruning.kinds(NOW, 100)}
    assert {name for name, n in rows.items() if n == ROWS / 10} == {
        *("decisions", "incidents", "rejections", "routed jobs", "used signatures", "reservations"),
        *("accepted receipts", "started receipts", "finished receipts"),
    }
    assert rows["blocks"] > ROWS / 2
    statements = [query["sql"] for query in captured if re.match("SELECT|UPDATE|DELETE", query["sql"])]
    assert len(statements) > 100
    for sql in statements:
        assert not read_whole(plan(sql.replace("%", "%%"), [])) & grown, sql


def test_a_job_that_is_routed_again_while_a_prune_waits_for_its_row_stays() -> None:
    """The row that comes out of the lock is another one, and is judged anew."""
    fill("anna")
    for _ in range(2):
        offer = routed(job_request(3), now=NOW - 2 * DAY)
    (kind,) = (kind for kind in pruning.kinds(NOW, 10) if kind.name == "routed jobs")
    gone: list[int] = []

    def prune() -> None:
        gone.extend(batch.rows for batch in kind.prune())
        connection.close()

    thread = Thread(target=prune)
    with transaction.atomic():
        RoutedJob.objects.filter(pk=offer.uuid).update(reservation=reserve(NOW), routed_at=NOW)
        thread.start()
        while not somebody_waits():
            assert thread.is_alive()
    thread.join()
    assert gone == [1]
    assert RoutedJob.objects.get().pk == offer.uuid
