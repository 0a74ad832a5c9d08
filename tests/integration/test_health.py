"""Is it there, can it work: for whoever starts and stops routers, and asks without a login, a cookie or HTTPS."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from threading import Barrier, Event
from typing import Any

import pytest
from django.db import DatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import AsyncClient, Client
from pytest_django import Settings

from allowance import allowance
from allowance.plumbing.threads import database_pool, in_database_thread
from routing.watch import health
from routing.watch.followed import Followed
from tests.clock import NOW
from tests.factories import raising
from tests.ledgers import FIRST_BLOCK, fill_ledger
from tests.programs import DEADLINE

NEWEST = FIRST_BLOCK + 20
ALL_IS_WELL = {"ready": True, "database": "ok", "newest_block": NEWEST, "channel_layer": "ok"}
SILENT = "It does not answer."
PROBES = ["/healthz", "/readyz"]
DETAILS = "connection to postgres://router:hunter2@db:5432/router failed"
SHORTLY = 0.1
"""Seconds to wait for who never answers."""

database = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PATIENCE", DEADLINE)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PATIENCE", SHORTLY)


def state(client: Client) -> tuple[int, dict[str, Any]]:
    """Return what a router says of itself; the age of the newest block is of another test."""
    response = client.get("/readyz")
    said = response.json()
    said.pop("newest_block_age_seconds")
    return response.status_code, said


def test_a_router_that_is_there_says_so_without_database_or_session(client: Client) -> None:
    client.cookies["sessionid"] = "somebody's"
    response = client.get("/healthz")  # any use of the database would fail: this test asked for none
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


@database
@pytest.mark.parametrize("address", [*PROBES, "/metrics"])
def test_they_are_only_to_be_read_and_never_kept(address: str, client: Client) -> None:
    for method in ("post", "put", "patch", "delete"):
        response = getattr(client, method)(address)
        assert (response.status_code, response["Cache-Control"]) == (405, "no-store")
    got, head = client.get(address), client.head(address)
    assert (got["Cache-Control"], head["Cache-Control"]) == ("no-store", "no-store")
    assert (head.status_code, head.content) == (got.status_code, b"")


@database
def test_they_answer_without_https_but_the_metrics_do_not(settings: Settings) -> None:
    settings.SECURE_SSL_REDIRECT = True
    fill_ledger("anna")
    assert [Client().get(address).status_code for address in PROBES] == [200, 200]
    assert Client().get("/metrics", headers={"Authorization": "Bearer secret"}).status_code == 301


@database
def test_a_router_whose_chain_goes_on_is_ready(client: Client) -> None:
    fill_ledger("anna")
    assert state(client) == (200, ALL_IS_WELL)
    assert 12 <= client.get("/readyz").json()["newest_block_age_seconds"] < 60


@database
def test_a_router_without_blocks_is_not_ready(client: Client) -> None:
    assert state(client) == (503, ALL_IS_WELL | {"ready": False, "newest_block": None})
    assert client.get("/readyz").json()["newest_block_age_seconds"] is None


@database
@pytest.mark.parametrize(("oldest", "ready"), [(60, True), (11, False)])
def test_a_router_whose_chain_stands_still_is_not_ready(
    oldest: float, ready: bool, client: Client, settings: Settings
) -> None:
    settings.ROUTING_READY_MAX_BLOCK_AGE = oldest
    fill_ledger("anna")
    assert state(client) == (200 if ready else 503, ALL_IS_WELL | {"ready": ready})


@database
def test_the_newest_block_is_the_one_of_the_highest_number(client: Client) -> None:
    fill_ledger("anna")
    long_ago = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    allowance().record_block(number=FIRST_BLOCK - 9, timestamp=long_ago, stake_share=0.5)  # comes last
    assert state(client) == (200, ALL_IS_WELL)


@database
def test_a_router_whose_database_fails_is_not_ready_and_tells_only_the_log_why(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(BaseDatabaseWrapper, "cursor", raising(DatabaseError(DETAILS)))
    unread = {"ready": False, "database": "It can't be read; the log says why.", "newest_block": None}
    assert state(client) == (503, ALL_IS_WELL | unread)
    assert client.get("/healthz").status_code == 200
    assert DETAILS in caplog.text


@contextmanager
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Let whatever is asked of the ledger hang; yield what was asked so far."""
    asked: list[str] = []
    answers = Event()
    read = health.read_ledger

    def read_late() -> health.Ledger:
        asked.append("ledger")
        answers.wait(DEADLINE)
        return read()

    with monkeypatch.context() as patch:
        patch.setattr(health, "read_ledger", read_late)
        try:
            yield asked
        finally:
            answers.set()


@pytest.mark.usefixtures("impatient")
@pytest.mark.asyncio
@database
async def test_a_database_that_hangs_keeps_one_thread_however_often_it_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await in_database_thread(fill_ledger)("anna")
    with hanging(monkeypatch) as asked:
        for _ in range(3):
            response = await AsyncClient().get("/readyz")
            assert (response.status_code, response.json()["database"]) == (503, SILENT)
        assert asked == ["ledger"]
    monkeypatch.setattr(health, "PATIENCE", DEADLINE)
    assert (await AsyncClient().get("/readyz")).status_code == 200


@asynccontextmanager
async def all_threads_busy() -> AsyncIterator[None]:
    """Keep all threads of the pool busy, as picks do that are stuck."""
    pool = database_pool()
    begun, done = Barrier(pool._max_workers + 1), Event()

    def pick() -> None:
        begun.wait(DEADLINE)
        done.wait(DEADLINE)

    stuck = [pool.submit(pick) for _ in range(pool._max_workers)]
    try:
        await asyncio.to_thread(begun.wait, DEADLINE)
        yield
    finally:
        done.set()
        await asyncio.gather(*map(asyncio.wrap_future, stuck))


@pytest.mark.usefixtures("impatient")
@pytest.mark.asyncio
@database
async def test_a_router_whose_threads_are_all_busy_says_so_and_queues_one_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await in_database_thread(fill_ledger)("anna")
    async with all_threads_busy():
        for _ in range(3):
            response = await AsyncClient().get("/readyz")
            assert response.status_code == 503
            assert response.json()["database"] == "All threads of the router are busy."
        assert database_pool()._work_queue.qsize() == 1
        assert (await AsyncClient().get("/healthz")).status_code == 200
    monkeypatch.setattr(health, "PATIENCE", DEADLINE)
    assert (await AsyncClient().get("/readyz")).status_code == 200


@pytest.mark.asyncio
@database
async def test_probes_that_hang_up_leave_one_question_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PATIENCE", DEADLINE)
    asked: list[str] = []

    def read() -> health.Ledger:
        asked.append("ledger")
        return health.Ledger(None, None, 0, 0, Followed(NOW, None, {}))

    monkeypatch.setattr(health, "read_ledger", read)
    async with all_threads_busy():
        probes = [asyncio.create_task(health.database.ledger()) for _ in range(4)]
        await asyncio.sleep(0)
        *impatient, patient = probes
        for probe in impatient:
            probe.cancel()
        ends = await asyncio.gather(*impatient, return_exceptions=True)
        assert {type(end) for end in ends} == {asyncio.CancelledError}
    await patient
    assert asked == ["ledger"]


@contextmanager
def port(*, listening: bool) -> Iterator[int]:
    """Yield a port at which nobody answers: it is refused at once, or `listening`, and silent."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if listening:
            taken.listen()
        yield taken.getsockname()[1]


@database
@pytest.mark.parametrize("backend", ["pubsub.RedisPubSubChannelLayer", "core.RedisChannelLayer"])
@pytest.mark.parametrize("listening", [False, True], ids=["away", "silent"])
def test_a_router_whose_channel_layer_is_out_of_reach_is_not_ready(
    listening: bool, backend: str, client: Client, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    fill_ledger("anna")
    with port(listening=listening) as number, pytest.MonkeyPatch.context() as patch:
        if listening:
            patch.setattr(health, "PATIENCE", 1.0)
        hosts = {"hosts": [f"redis://127.0.0.1:{number}/0"]}
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": f"channels_redis.{backend}", "CONFIG": hosts}}
        with caplog.at_level(logging.WARNING):
            status, said = state(client)
        assert (status, said["ready"], said["database"]) == (503, False, "ok")
        assert re.fullmatch(r"It (does not answer|can't be reached; the log says why)\.", said["channel_layer"])
        assert str(number) not in str(said)
