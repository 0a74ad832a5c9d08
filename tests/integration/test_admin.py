"""The admin: all there is can be seen and found, nothing can be changed but the dynamic settings."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode
from uuid import UUID, uuid4

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Permission, User
from django.db import connection, models
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

import allowance.admin
import receipts.admin
from allowance import reservations
from allowance.models import Account, Block, ManifestSync, Miner, NeuronList, Reservation
from allowance.types import MAX_WEI
from receipts import receipts as receipts_service
from receipts.models import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt
from receipts.schemas import JobAccepted, JobFinished, JobStarted
from routing import conf
from routing.models import MinerIncident
from routing.reliability import record_incident
from routing.types import MinerIncidentType
from tests.factories import CLASS, FIRST_BLOCK, fill_ledger

pytestmark = pytest.mark.django_db

Model = type[models.Model]
MODELS: list[Model] = [m for app in ("allowance", "receipts", "routing") for m in apps.get_app_config(app).get_models()]
OF_JOBS: list[Model] = [Reservation, JobStartedReceipt, JobAcceptedReceipt, JobFinishedReceipt, MinerIncident]
OF_MINERS: list[Model] = [Miner, Account, *OF_JOBS]

HTML = "<b>'hot'&amp;</b>"
ESCAPED = "&lt;b&gt;&#x27;hot&#x27;&amp;amp;&lt;/b&gt;"
JOB, LAPSED_JOB = uuid4(), uuid4()

each_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)


@pytest.fixture(autouse=True)
def rows(db: None) -> None:
    """At least a row of everything, with a hotkey that is HTML; a reservation that is held, and one that lapsed."""
    fill_ledger(HTML, "plain")
    now = timezone.now()
    reserve(HTML, LAPSED_JOB, now - dt.timedelta(hours=1))
    reserve("plain", JOB, now)
    record_job(HTML, JOB)
    record_job("plain", uuid4())


def reserve(miner: str, job: UUID, now: dt.datetime) -> Reservation:
    return reservations.reserve(
        miner=miner, executor_class=CLASS, seconds=30, job_start_block=FIRST_BLOCK, job_uuid=job, now=now
    )


def record_job(miner: str, job: UUID) -> None:
    """Record an incident, and a receipt of each kind."""
    now = timezone.now()
    said: dict[str, Any] = {"job_uuid": job, "miner_hotkey": miner, "validator_hotkey": "us", "timestamp": now}
    service = receipts_service()
    service.record(JobStarted(**said, executor_class=CLASS, ttl=60))
    service.record(JobAccepted(**said, time_accepted=now, ttl=60))
    service.record(JobFinished(**said, time_started=now, time_took_us=1_500_000, block_numbers=[FIRST_BLOCK]))
    record_incident(
        incident_type=MinerIncidentType.MINER_JOB_FAILED, hotkey=miner, job_uuid=job, executor_class=CLASS, timestamp=now
    )


def page(model: Model, view: str, *args: object, **query: object) -> str:
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}_{view}"
    return reverse(name, args=[quote(str(arg)) for arg in args]) + (f"?{urlencode(query)}" if query else "")


def found(client: Client, model: Model, **query: object) -> list[Any]:
    """Return the rows that a list shows."""
    response = client.get(page(model, "changelist", **query))
    assert response.status_code == 200, response
    return list(response.context["cl"].result_list)


def text(client: Client, address: str) -> str:
    response = client.get(address)
    assert response.status_code == 200, response
    return response.content.decode()


@contextmanager
def queries() -> Iterator[list[str]]:
    """Collect the SQL that runs inside."""
    sql: list[str] = []
    with CaptureQueriesContext(connection) as captured:
        yield sql
    sql += [query["sql"] for query in captured]


def test_every_model_is_registered() -> None:
    assert set(MODELS) <= set(admin.site._registry)


@each_model
def test_every_list_and_page_loads(model: Model, admin_client: Client) -> None:
    rows = found(admin_client, model)
    assert rows
    for row in rows:
        assert str(row.pk) in text(admin_client, page(model, "changelist")) or model is not Miner
        text(admin_client, page(model, "change", row.pk))
        text(admin_client, page(model, "history", row.pk))
