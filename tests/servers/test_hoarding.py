"""A client that is let in and wants all executors: it can't have them for longer than its jobs can last."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from allowance.plumbing.threads import in_database_thread
from receipts import receipts
from receipts.models import JobAcceptedReceipt, JobStartedReceipt
from routing.sockets.messages import Acknowledged, Reason, Refused, Routed
from tests.factories import run_command
from tests.ledgers import CLASS
from tests.servers.client import about, ask, route, socket
from tests.servers.server import Server, servers
from tests.sockets import job

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.asyncio, pytest.mark.usefixtures("ledger")]

YEAR = 366 * 24 * 3600
SECONDS = 60


@pytest.fixture(scope="module")
def server(django_db_setup: None) -> Iterator[Server]:
    with servers(1) as (server,):
        yield server
        assert server.troubles == []


def busy_until(when: dt.datetime) -> int:
    return sum(receipts().get_busy_executor_count(CLASS, when).values())


async def test_no_receipt_outlasts_its_job(server: Server, token: str) -> None:
    ahead = (timezone.now() + dt.timedelta(hours=1)).isoformat()
    sides = {"validator_hotkey": "v"}
    async with socket(server, token) as client:
        for _ in range(10):
            routed = await route(client, job(download_time_limit=0, execution_time_limit=SECONDS, upload_time_limit=0))
            assert isinstance(routed, Routed)
            for kind in ("job.started", "job.accepted"):
                for tried in ({"ttl": YEAR}, {"ttl": 3701}, {"ttl": SECONDS + 101}, {"timestamp": ahead}):
                    refused = await ask(client, about(routed, kind, **sides, **tried))
                    assert isinstance(refused, Refused)
                    assert refused.reason is Reason.BAD_MESSAGE
                longest = (timezone.now() + dt.timedelta(seconds=50)).isoformat()
                told = await ask(client, about(routed, kind, **sides, ttl=SECONDS + 100, timestamp=longest))
                assert isinstance(told, Acknowledged)
    now = timezone.now()
    over = now + dt.timedelta(seconds=50 + SECONDS + 100 + 1)
    assert await in_database_thread(busy_until)(now + dt.timedelta(seconds=60)) == 10
    assert await in_database_thread(busy_until)(over) == 0
    await in_database_thread(User.objects.create_superuser)("boss")
    voided = await in_database_thread(run_command)(
        "void_receipts", "--validator", "v", "--by", "boss", "--reason", "a leak", "--yes"
    )
    assert "20 receipts are voided." in voided.out
    assert await in_database_thread(busy_until)(now + dt.timedelta(seconds=60)) == 0
    left = JobStartedReceipt.objects.filter(voided_at=None), JobAcceptedReceipt.objects.filter(voided_at=None)
    assert [await in_database_thread(rows.count)() for rows in left] == [0, 0]
