"""A site whose web requests are transactions, by ATOMIC_REQUESTS: every address of ours answers."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test import Client
from django.urls import reverse

from routing import routing
from routing.models import MinerIncident
from routing.pages import MENU
from tests.factories import job_request
from tests.ledgers import fill_ledger
from tests.rows import report

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def atomic_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    fill_ledger("anna")
    routing().pick(job_request())
    report()
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)


@pytest.mark.parametrize("address", ["/healthz", "/readyz", "/metrics"])
def test_probes_answer(address: str, admin_client: Client) -> None:
    assert admin_client.get(address).status_code == 200


def test_pages_answer(admin_client: Client) -> None:
    for name in [page.name for page in MENU] + ["routing_minerincident_csv"]:
        response = admin_client.get(reverse(f"admin:{name}"))
        assert response.status_code == 200
        assert b"".join(iter(response))


def test_an_incident_is_voided(admin_client: Client) -> None:
    incident = MinerIncident.objects.get()
    address = reverse("admin:routing_minerincident_void", args=[incident.pk])
    assert admin_client.post(address, {"reason": "a mistake"}).status_code == 302
    incident.refresh_from_db()
    assert incident.void_reason == "a mistake"
