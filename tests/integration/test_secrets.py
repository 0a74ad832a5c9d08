"""What goes wrong is told to whoever asked without what is none of their business."""

from __future__ import annotations

import asyncio
import json
import os
import re

import pytest
from channels.testing import WebsocketCommunicator
from django import db
from django.conf import settings
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.shortcuts import resolve_url
from django.test import Client
from django.urls import reverse

from allowance.models import ManifestSync, Miner
from allowance.plumbing.lists import ReadOnlyAdmin
from allowance.types import LockTimeout
from routing import service
from routing.decision.in_force import InForce, make_policy
from tests.factories import raising
from tests.integration.test_consumer import BAD
from tests.sockets import PATIENCE, answer, ask, consumer_for, job, socket

MINERS = ("hotkey-of-anna", "hotkey-of-bert")
pytestmark = [pytest.mark.usefixtures("ledger_clean_at_the_end"), pytest.mark.miners(*MINERS, executors=1)]
SQL = 'SELECT "wei" FROM "allowance_miner" WHERE "hotkey" = \'hotkey-of-anna\''
DETAILS = f"{SQL}: connection to postgres://router:hunter2@db:5432/router at {settings.BASE_DIR}/db.sqlite3 failed"

SECRETS = [
    settings.SECRET_KEY,
    str(settings.BASE_DIR),
    os.environ.get("DATABASE_URL"),
    settings.DATABASES["default"].get("PASSWORD"),
]
WORDS = [
    r"\b(SELECT|INSERT|UPDATE|DELETE|FROM|WHERE|COMMIT)\b",
    r"Traceback|File \"|\.py\b|site-packages|sqlite|postgres|psycopg|hunter2|hotkey-of-",
]
NOBODYS_BUSINESS = re.compile("|".join([*WORDS, *(re.escape(secret) for secret in SECRETS if secret)]))


def leaks(text: str) -> list[str]:
    """Return what a text should not have told."""
    return [match.group() for match in NOBODYS_BUSINESS.finditer(text)]


def test_a_leak_would_be_noticed() -> None:
    assert {"SELECT", "WHERE", "hotkey-of-", "hunter2", "postgres", str(settings.BASE_DIR)} <= set(leaks(DETAILS))
    assert leaks(f"the key is {settings.SECRET_KEY}")


REFUSALS: dict[str, dict[str, object]] = {
    "NOT_ENOUGH_ALLOWANCE": {"execution_time_limit": 1000},
    "JOB_TOO_LONG": {"execution_time_limit": 4000},
    "BAD_MESSAGE": {"uuid": "1"},
    "NOT_ENOUGH_COLLATERAL": {},
    "ALL_MINERS_BUSY": {},
    "LOCK_TIMEOUT": {},
}


@pytest.mark.parametrize("reason", REFUSALS)
async def test_a_refusal_tells_the_client_no_more_than_the_reason(
    reason: str, facilitator: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with socket(facilitator) as communicator:
        with monkeypatch.context() as patch:
            if reason == "NOT_ENOUGH_COLLATERAL":
                patch.setattr("routing.decision.in_force.parse", lambda _rows: InForce(make_policy(10**18, 24.0), None))
            if reason == "LOCK_TIMEOUT":
                patch.setattr(service, "decide", raising(LockTimeout()))
            if reason == "ALL_MINERS_BUSY":
                for _ in MINERS:
                    await ask(communicator)
            rejected = await ask(communicator, **REFUSALS[reason])
        assert (rejected["type"], rejected["reason"], leaks(json.dumps(rejected))) == ("job.rejected", reason, [])


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_message_is_told_nothing_but_itself(case: str, facilitator: User) -> None:
    async with socket(facilitator) as communicator:
        await communicator.send_input({"type": "websocket.receive", "text": BAD[case][1]})
        assert leaks(json.dumps(await answer(communicator))) == []


FAILURES = (db.OperationalError, db.ProgrammingError, db.IntegrityError, db.DataError, db.InterfaceError)


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_failing_database_is_answered_without_its_words_and_the_next_job_served(
    failure: type[Exception], facilitator: User, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with socket(facilitator) as communicator:
        with monkeypatch.context() as patch:
            patch.setattr(service, "decide", raising(failure(DETAILS)))
            rejected = await ask(communicator)
        assert (rejected["type"], rejected["reason"]) == ("job.rejected", "UNAVAILABLE")
        assert leaks(json.dumps(rejected)) == []
        assert (await ask(communicator))["type"] == "job.routed"
    assert DETAILS in caplog.text
    assert settings.SECRET_KEY not in caplog.text


async def first_words(communicator: WebsocketCommunicator) -> str:
    """Return what the client is sent next; nothing if the application ends instead, and so the server closes."""
    heard = asyncio.ensure_future(communicator.output_queue.get())
    await asyncio.wait({heard, communicator.future}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
    assert heard.done() or communicator.future.done()
    if heard.done():
        return str(heard.result())
    heard.cancel()
    return ""


@pytest.mark.parametrize("bug", [ZeroDivisionError, KeyError, ValueError, ImproperlyConfigured])
async def test_a_bug_tells_the_client_nothing_of_itself(
    bug: type[Exception], facilitator: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "decide", raising(bug(DETAILS)))
    communicator = consumer_for(facilitator)
    assert (await communicator.connect(PATIENCE))[0]
    await communicator.send_json_to(job())
    assert leaks(await first_words(communicator)) == []
    communicator.stop(exceptions=False)


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_database_that_fails_at_the_opening_tells_the_client_nothing(
    failure: type[Exception], facilitator: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(User, "has_perm", raising(failure(DETAILS)))
    communicator = consumer_for(facilitator)
    await communicator.send_input({"type": "websocket.connect"})
    assert (await communicator.receive_output(PATIENCE))["type"] == "websocket.accept"
    assert leaks(await first_words(communicator)) == []
    communicator.stop(exceptions=False)


LISTS = [reverse(f"admin:{name}_changelist") for name in ("allowance_reservation", "routing_minerincident")]
NOWHERE = ["/nowhere", "/admin/nowhere/", "/admin/allowance/reservation/4711/change/", "/static/nowhere.css"]


@pytest.mark.parametrize("address", LISTS)
@pytest.mark.parametrize("failure", [*FAILURES, ZeroDivisionError])
def test_a_page_that_fails_shows_nothing_of_it(
    address: str,
    failure: type[Exception],
    admin_client: Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    admin_client.raise_request_exception = False
    monkeypatch.setattr(ReadOnlyAdmin, "get_queryset", raising(failure(DETAILS)))
    response = admin_client.get(address)
    assert (response.status_code, leaks(response.content.decode())) == (500, [])
    assert DETAILS in caplog.text
    assert settings.SECRET_KEY not in caplog.text


@pytest.mark.parametrize("address", NOWHERE)
def test_a_page_that_is_not_there_shows_nothing_of_the_site(address: str, admin_client: Client) -> None:
    for client in (Client(), admin_client):
        assert leaks(client.get(address, follow=True).content.decode()) == []
    assert Client().get(NOWHERE[0]).status_code == 404


def test_a_request_that_is_refused_shows_nothing_of_the_site(admin_client: Client) -> None:
    strict = Client(enforce_csrf_checks=True)
    for response, status in (
        (strict.get("/admin/", headers={"host": "evil.example"}), 400),
        (strict.post(reverse("admin:login"), {"username": "admin", "password": "guess"}), 403),
        (admin_client.get(LISTS[0], {"e": "1"}), 200),
        (admin_client.get(LISTS[0], {"created_at__gte": "'"}), 302),
    ):
        assert (response.status_code, leaks(response.content.decode())) == (status, [])


def test_pages_and_cookies_are_kept_from_other_sites() -> None:
    User.objects.create_superuser("boss", password="a password")
    who = {"username": "boss", "password": "a password"}
    response = Client().post(reverse("admin:login"), who, secure=True)
    assert {"X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff"}.items() <= response.headers.items()
    session, token = (response.cookies[name] for name in (settings.SESSION_COOKIE_NAME, settings.CSRF_COOKIE_NAME))
    assert (session["secure"], session["httponly"], session["samesite"]) == (True, True, "Lax")
    assert (token["secure"], token["samesite"]) == (True, "Lax")


@pytest.mark.parametrize("elsewhere", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:x()"])
def test_the_login_leads_nowhere_else(elsewhere: str) -> None:
    User.objects.create_superuser("boss", password="a password")
    who = {"username": "boss", "password": "a password", "next": elsewhere}
    assert Client().post(reverse("admin:login"), who)["Location"] == resolve_url(settings.LOGIN_REDIRECT_URL)


def test_markup_that_a_miner_gave_as_its_address_is_shown_as_text(admin_client: Client) -> None:
    axon = {"address": "<script>x()</script>", "ip_version": 4, "port": 1}  # which is refused today
    Miner.objects.filter(pk=MINERS[0]).update(**axon)
    ManifestSync.objects.update(axons=dict.fromkeys(MINERS, axon))
    for model, row in (("miner", MINERS[0]), ("manifestsync", ManifestSync.objects.latest("pk").pk)):
        content = admin_client.get(reverse(f"admin:allowance_{model}_change", args=[row])).content.decode()
        assert "&lt;script&gt;x()" in content
        assert "<script>x()" not in content
