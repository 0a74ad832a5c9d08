"""Incidents as a CSV file: all of them, safe in a spreadsheet, sent while they are read."""

from __future__ import annotations

import csv
import datetime as dt
from asyncio import Event
from collections.abc import Iterator
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.contrib.auth.models import User
from django.db import connection, connections
from django.http import StreamingHttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from allowance.plumbing import lists
from project.asgi import application
from routing.models import MinerIncident
from routing.pages import incident_counts
from tests.ledgers import CLASS
from tests.visitors import clerk

NOW = dt.datetime(2026, 3, 1, 12, 30, tzinfo=dt.UTC)
CSV = "admin:routing_minerincident_csv"

pytestmark = [pytest.mark.django_db, pytest.mark.time_machine(NOW, tick=False)]


def fill(*seconds_ago: float, **fields: Any) -> None:
    usual = {"type": "MINER_JOB_FAILED", "hotkey_ss58address": "anna", "executor_class": CLASS}
    MinerIncident.objects.bulk_create(
        MinerIncident(**{"job_uuid": UUID(int=i), "timestamp": NOW - dt.timedelta(seconds=ago), **usual, **fields})
        for i, ago in enumerate(seconds_ago)
    )


def text(response: Any) -> str:
    assert response.status_code == 200
    assert isinstance(response, StreamingHttpResponse)
    return b"".join(response).decode()


def rows(response: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(text(response).splitlines()))


def in_chunks_of(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incident_counts, "as_csv", partial(incident_counts.as_csv, size=size))


def test_a_file_tells_all_there_is_to_know(admin_client: Client) -> None:
    fill(60.000001)
    fill(30, executors=3, job_uuid=UUID(int=9), voided_at=NOW, voided_by="boss", void_reason='A "host", of\nours')
    response = admin_client.get(reverse(CSV))
    assert response.headers["Content-Disposition"] == 'attachment; filename="incidents-2026-03-01.csv"'
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
    new, old = MinerIncident.objects.order_by("-timestamp")
    assert text(response) == (
        "id,timestamp,type,hotkey,job_uuid,executor_class,executors,voided_at,voided_by,void_reason\r\n"
        f"{new.pk},2026-03-01T12:29:30+00:00,MINER_JOB_FAILED,anna,{UUID(int=9)},{CLASS},3,"
        '2026-03-01T12:30:00+00:00,boss,"A ""host"", of\nours"\r\n'
        f"{old.pk},2026-03-01T12:28:59.999999+00:00,MINER_JOB_FAILED,anna,{UUID(int=0)},{CLASS},0,,,\r\n"
    )


def test_without_incidents_there_is_a_head(admin_client: Client) -> None:
    assert text(admin_client.get(reverse(CSV))).startswith("id,timestamp,")
    assert rows(admin_client.get(reverse(CSV))) == []


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r"], ids=repr)
def test_a_spreadsheet_runs_no_formula(first: str, admin_client: Client) -> None:
    formula = f"{first}cmd|'/C calc'!A0"
    void = {"voided_at": NOW, "voided_by": formula, "void_reason": formula}
    fill(1, hotkey_ss58address=formula, **void)
    reader = csv.DictReader(text(admin_client.get(reverse(CSV))).splitlines(keepends=True))
    (row,) = list(reader)
    assert {row[name] for name in ("hotkey", "voided_by", "void_reason")} == {f"'{formula}"}


def test_a_file_is_longer_than_a_list(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "MAX_LISTED", 1)
    fill(*range(5))
    assert len(rows(admin_client.get(reverse(CSV)))) == 5


@pytest.mark.parametrize("size", range(1, 9))
def test_each_incident_comes_once_and_in_order_however_many_are_read_at_a_time(size: int) -> None:
    fill(3, 1, 2, 2, 2, 1, 5)
    expected = list(MinerIncident.objects.order_by("-timestamp", "-pk").values_list("pk", flat=True))
    with CaptureQueriesContext(connection) as captured:
        read = list(incident_counts.newest_first(MinerIncident.objects.all(), size))
    assert [pk for some in read for pk, *_ in some] == expected
    assert max(map(len, read)) <= size
    assert all(f"LIMIT {size}" in query["sql"] for query in captured)


def test_the_first_lines_are_sent_before_the_last_are_read(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_chunks_of(2, monkeypatch)
    fill(*range(6))
    parts: Iterator[bytes] = iter(admin_client.get(reverse(CSV)))
    assert next(parts).startswith(b"id,")
    assert next(parts).count(b"\r\n") == 2
    MinerIncident.objects.all().delete()
    assert list(parts) == []


@pytest.mark.django_db(transaction=True)
async def test_so_they_are_by_an_asynchronous_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's own side is played here: it takes the next part when it has sent the one before."""
    in_chunks_of(2, monkeypatch)
    async with ThreadSensitiveContext():  # one thread for all, whose connection can be closed
        try:
            assert await lines_of_each_part() == [1, 2]
        finally:
            await sync_to_async(connections.close_all)()


async def lines_of_each_part() -> list[int]:
    """Ask the site for a file of six incidents, and delete them all once two were sent."""
    await sync_to_async(fill)(*range(6))
    client = Client()
    await sync_to_async(client.force_login)(await sync_to_async(User.objects.create_superuser)("boss"))
    asked = [{"type": "http.request", "body": b"", "more_body": False}]
    parts: list[bytes] = []

    async def receive() -> dict[str, Any]:
        if not asked:
            await Event().wait()
        return asked.pop()

    async def send(message: dict[str, Any]) -> None:
        assert message.get("status", 200) == 200
        if part := message.get("body"):
            parts.append(part)
            if len(parts) == 2:
                await sync_to_async(MinerIncident.objects.all().delete)()

    cookies = client.cookies.output(header="", sep=";").strip().encode()
    headers = [(b"host", b"localhost"), (b"cookie", cookies)]
    scope = {"type": "http", "method": "GET", "path": reverse(CSV), "query_string": b"", "headers": headers}
    server: Any = application
    await server(scope, receive, send)
    return [part.count(b"\r\n") for part in parts]


def test_a_file_is_for_those_who_may_see_incidents() -> None:
    assert clerk().get(reverse(CSV)).status_code == 403
