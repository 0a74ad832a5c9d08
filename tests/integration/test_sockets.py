"""Sockets under way: side by side, within bounds, followed by others, and only for who may still be there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from threading import Event
from typing import Any, cast
from uuid import uuid4

import pytest
from channels.layers import InMemoryChannelLayer
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User
from django.db import OperationalError
from pytest_django import Settings
from redis.exceptions import ConnectionError as RedisAway

from allowance.plumbing.threads import in_database_thread
from routing.access.admission import Visitor
from routing.sockets import answers, base, news, quotas
from routing.sockets.consumers import JobConsumer, NewsConsumer
from tests.factories import raising
from tests.integration.test_metrics import counted
from tests.programs import DEADLINE
from tests.sockets import JSON, PATIENCE, answer, ask, following, job, permitted, reservations, socket, tell

pytestmark = [pytest.mark.usefixtures("ledger_clean_at_the_end"), pytest.mark.miners("anna", "bert", executors=4)]


@pytest.fixture
def operator(transactional_db: None) -> User:
    return permitted("operator", "view_routedjob")


@asynccontextmanager
async def all_events(user: User) -> AsyncIterator[WebsocketCommunicator]:
    communicator = WebsocketCommunicator(NewsConsumer.as_asgi(), "/ws/events/")
    cast(JSON, communicator.scope)["user"] = user
    async with following():
        assert (await communicator.connect(PATIENCE))[0]
    yield communicator
    await communicator.disconnect(timeout=PATIENCE)


class GoOn(Event):
    """Set to let somebody go on who waits for it, who sets `begun` before."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = Event()


@contextmanager
def stuck(monkeypatch: pytest.MonkeyPatch, *uuids: str) -> Iterator[GoOn]:
    """Let the picks of some jobs wait until the event is set."""
    go_on, to_question = GoOn(), answers.to_question

    def wait(question: Any, visitor: Visitor) -> Any:
        if question.uuid in uuids:
            go_on.begun.set()
            assert go_on.wait(DEADLINE)
        return to_question(question, visitor)

    monkeypatch.setattr(answers, "to_question", wait)
    try:
        yield go_on
    finally:
        go_on.set()


def about(routed: JSON, kind: str, **more: object) -> JSON:
    """Return a message about a route."""
    return {"type": kind, **{name: routed[name] for name in ("uuid", "allowance_reservation_id")}, **more}


async def test_a_slow_pick_does_not_hold_up_the_next(facilitator: User, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, quick = job(), job()
    async with socket(facilitator) as communicator:
        with stuck(monkeypatch, slow["uuid"]) as go_on:
            await communicator.send_json_to(slow)
            await communicator.send_json_to(quick)
            assert (await answer(communicator))["uuid"] == quick["uuid"]
            go_on.set()
            assert (await answer(communicator))["uuid"] == slow["uuid"]


@pytest.mark.parametrize("bound", ["ROUTING_SOCKET_IN_FLIGHT", "ROUTING_SOCKET_IN_FLIGHT_EACH"])
async def test_what_is_too_much_is_refused_at_once_and_then_taken(
    bound: str, facilitator: User, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    setattr(settings, bound, 2)
    slow = [job(), job()]
    async with socket(facilitator) as communicator:
        with stuck(monkeypatch, *[request["uuid"] for request in slow]) as go_on:
            for request in slow:
                await communicator.send_json_to(request)
            refused = await ask(communicator)
            assert (refused["type"], refused["reason"]) == ("job.rejected", "OVERLOADED")
            assert refused["retry_after_seconds"] > 0
            assert (await tell(communicator, about({**refused, "allowance_reservation_id": None}, "job.failed")))[
                "type"
            ] == "error"
            go_on.set()
            routed = [await answer(communicator) for _ in slow]
        assert [message["type"] for message in routed] == ["job.routed"] * 2
        assert (await ask(communicator))["type"] == "job.routed"


async def test_a_process_takes_on_so_much_over_all_sockets(
    facilitator: User, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ROUTING_SOCKET_IN_FLIGHT = 1
    slow = job()
    async with socket(facilitator) as one, socket(facilitator) as other:
        with stuck(monkeypatch, slow["uuid"]) as go_on:
            await one.send_json_to(slow)
            assert await asyncio.to_thread(go_on.begun.wait, PATIENCE)
            assert counted("router_in_flight") == 1
            assert (await ask(other))["reason"] == "OVERLOADED"
            go_on.set()
            assert (await answer(one))["type"] == "job.routed"
        assert (await ask(other))["type"] == "job.routed"
    assert counted("router_in_flight") == 0


async def test_a_client_that_does_not_read_takes_nobody_elses_place(
    facilitator: User, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ROUTING_SOCKET_IN_FLIGHT, settings.ROUTING_SOCKET_SEND_SECONDS = 1, 0.3
    async with socket(facilitator) as lazy, socket(facilitator) as other:
        send, sending = JobConsumer.send, asyncio.Event()

        async def send_slowly(consumer: JobConsumer, text: str) -> None:
            if consumer.scope is lazy.scope:
                sending.set()
                await asyncio.Event().wait()
            await send(consumer, text)

        monkeypatch.setattr(JobConsumer, "send", send_slowly)
        await lazy.send_json_to(job())
        await asyncio.wait_for(sending.wait(), PATIENCE)
        assert (await ask(other))["type"] == "job.routed"
        closing = await lazy.receive_output(PATIENCE)
        assert (closing["type"], closing["code"]) == ("websocket.close", 4408)
        await lazy.send_json_to(job())
        assert await lazy.receive_nothing(0.1)
    # The client may have read its answer after all. If not, it is told again.
    assert [r.state for r in await reservations()] == ["held", "held"]


async def test_who_sends_too_much_is_told_so(facilitator: User, settings: Settings) -> None:
    settings.ROUTING_SOCKET_MESSAGES_PER_SECOND = 3
    async with socket(facilitator) as communicator:
        for _ in range(5):
            await communicator.send_to(text_data="nonsense")
        reasons = [(await answer(communicator))["reason"] for _ in range(5)]
    assert reasons == ["BAD_MESSAGE"] * 3 + ["RATE_LIMITED"] * 2


async def test_a_job_is_followed_to_its_end(facilitator: User) -> None:
    async with socket(facilitator) as communicator:
        routed = await ask(communicator)
        for kind, more, reservation in (
            ("job.started", {"validator_hotkey": "v"}, "held"),
            ("job.accepted", {"validator_hotkey": "v"}, "held"),
            ("job.finished", {"validator_hotkey": "v", "time_took_us": 5}, "spent"),
        ):
            told = {"of": kind, "reservation": reservation, "incident": False, "excused": None, "sentence": None}
            assert await tell(communicator, about(routed, kind, **more)) == about(routed, "job.acknowledged", **told)
        assert await communicator.receive_nothing(0.05)  # it hears no news of what it said itself
        again = await ask(communicator, uuid=routed["uuid"])
    assert (again["type"], again["reason"]) == ("job.rejected", "JOB_ALREADY_OVER")


async def test_a_rejected_job_is_retried_with_another_miner(facilitator: User) -> None:
    async with socket(facilitator) as communicator:
        routed = await ask(communicator)
        assert (await tell(communicator, about(routed, "job.rejected_by_miner")))["reservation"] == "released"
        again = await tell(communicator, about(routed, "job.retry"))
        assert (again["type"], again["uuid"]) == ("job.routed", routed["uuid"])
        assert again["miner"] != routed["miner"]
        refused = await tell(communicator, about(again, "job.retry"))
    assert (refused["type"], refused["reason"]) == ("job.rejected", "NOT_ENOUGH_ALLOWANCE")
    assert refused["counts"] == {"excluded": 2}
    assert "2 miners were excluded: send it as a new job." in refused["sentence"]


async def test_a_word_about_an_unknown_route_is_an_error(facilitator: User) -> None:
    async with socket(facilitator) as communicator:
        error = await tell(communicator, {"type": "job.failed", "uuid": str(uuid4()), "allowance_reservation_id": 1})
    assert (error["type"], error["of"], error["reason"]) == ("error", "job.failed", "JOB_UNKNOWN")


async def test_what_is_said_elsewhere_reaches_who_asked_for_the_route(facilitator: User, operator: User) -> None:
    async with socket(facilitator) as one, socket(facilitator) as other, all_events(operator) as watching:
        routed = await ask(one)
        told = {"of": "job.routed", "miner": routed["miner"]["hotkey_ss58"], "reservation": "held", "reason": None}
        assert await answer(watching) == about(routed, "job.event", **told)
        assert (await tell(other, about(routed, "job.failed")))["type"] == "job.acknowledged"
        told = {"of": "job.failed", "miner": None, "reservation": "released", "reason": None}
        assert await answer(one) == await answer(watching) == about(routed, "job.event", **told)
        assert await other.receive_nothing(0.05)
        refused = await ask(other, execution_time_limit=3000)
        assert (await answer(watching))["reason"] == refused["reason"] == "NOT_ENOUGH_ALLOWANCE"
        assert await one.receive_nothing(0.05)


async def test_events_are_for_whoever_may_see_them(facilitator: User) -> None:
    communicator = WebsocketCommunicator(NewsConsumer.as_asgi(), "/ws/events/")
    cast(JSON, communicator.scope)["user"] = facilitator
    await communicator.connect(PATIENCE)
    assert (await communicator.receive_output(PATIENCE))["code"] == 4403


async def test_routing_goes_on_without_a_channel_layer(
    facilitator: User, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        async def fail(self, *_: object) -> None:
            raise RedisAway("away")

        new_channel = receive = group_add = group_discard = group_send = fail

    monkeypatch.setattr(news, "get_channel_layer", Broken)
    async with socket(facilitator) as communicator:
        assert (await ask(communicator))["type"] == "job.routed"
        assert (await ask(communicator))["type"] == "job.routed"
    assert "The channel layer failed" in caplog.text
    assert [r for r in caplog.records if r.levelname == "ERROR"] == []


async def test_a_socket_ends_even_if_a_cancellation_is_ignored(
    facilitator: User, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """asyncio.wait_for of Python 3.11, which the Redis client uses, ignores one that comes as its work is done."""
    joining, renewing, joined = asyncio.Event(), asyncio.Event(), []

    class Layer(InMemoryChannelLayer):
        async def group_add(self, group: str, channel: str) -> None:
            await ignored_cancellation(joining)
            joined.append(group)

    async def stay(client: str, key: str) -> None:
        await ignored_cancellation(renewing)

    layer = Layer()
    monkeypatch.setattr(news, "get_channel_layer", lambda: layer)
    monkeypatch.setattr(quotas.connections, "stay", stay)
    settings.ROUTING_SOCKET_RECHECK_SECONDS = 0.01
    before = asyncio.all_tasks()
    async with socket(facilitator) as communicator:
        for _ in range(3):
            assert (await ask(communicator))["type"] == "job.routed"
        await asyncio.wait_for(asyncio.gather(joining.wait(), renewing.wait()), PATIENCE)
    assert len(joined) == 1
    assert {task for task in asyncio.all_tasks() - before if not task.done()} == set()
    assert [r for r in caplog.records if r.levelname == "ERROR"] == []


async def ignored_cancellation(waiting: asyncio.Event) -> None:
    """Wait until cancelled, and return as if the work were done."""
    waiting.set()
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


async def test_without_any_channel_layer_there_are_just_no_news(
    facilitator: User, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.CHANNEL_LAYERS = {}
    async with socket(facilitator) as communicator:
        assert (await ask(communicator))["type"] == "job.routed"
    assert [r for r in caplog.records if r.levelname != "INFO"] == []


async def test_who_loses_the_permission_is_closed_soon(facilitator: User, settings: Settings) -> None:
    settings.ROUTING_SOCKET_RECHECK_SECONDS = 0.05
    async with socket(facilitator) as communicator:
        assert (await ask(communicator))["type"] == "job.routed"
        await in_database_thread(facilitator.user_permissions.clear)()
        closing = await communicator.receive_output(PATIENCE)
        assert (closing["type"], closing["code"]) == ("websocket.close", 4403)
        await communicator.send_json_to(job())
        assert await communicator.receive_nothing(0.1)
    assert len(await reservations()) == 1


async def test_a_database_that_is_away_throws_nobody_out(
    facilitator: User, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings.ROUTING_SOCKET_RECHECK_SECONDS = 0.05

    monkeypatch.setattr(base, "recheck", raising(OperationalError))
    async with socket(facilitator) as communicator:
        assert await communicator.receive_nothing(0.2)
        assert (await ask(communicator))["type"] == "job.routed"
    assert "The socket stays open" in caplog.text


async def test_sockets_are_counted_while_they_are_open(facilitator: User) -> None:
    before = counted("router_sockets")
    async with socket(facilitator) as one, socket(facilitator) as other:
        for communicator in (one, other):
            await ask(communicator)
        assert counted("router_sockets") == before + 2
    assert counted("router_sockets") == before


async def test_a_large_message_is_read_beside_the_others(facilitator: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is read, the event loop serves other clients."""
    read, go_on = answers.read, GoOn()

    def read_slowly(data: str | bytes) -> Any:
        if len(data) >= answers.LARGE:
            go_on.begun.set()
            assert go_on.wait(DEADLINE)
        return read(data)

    monkeypatch.setattr(answers, "read", read_slowly)
    async with socket(facilitator) as one, socket(facilitator) as other:
        await one.send_json_to(job(args=["x" * answers.LARGE]))
        assert await asyncio.to_thread(go_on.begun.wait, PATIENCE)
        assert (await ask(other))["type"] == "job.routed"
        go_on.set()
        assert (await answer(one))["type"] == "job.routed"
