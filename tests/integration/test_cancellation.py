"""A caller that is cancelled leaves nothing held: whatever its thread still reserves is released there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User
from django.db import OperationalError, connection, connections

from allowance import allowance, reservations
from allowance.models import Reservation
from allowance.plumbing.settings import conf
from allowance.plumbing.threads import Handover, in_database_thread
from routing import routing, service
from routing.sockets.consumers import JobConsumer
from routing.types import JobRoute
from tests.factories import job_request, raising
from tests.ledgers import CLASS, FIRST_BLOCK
from tests.programs import DEADLINE
from tests.sockets import consumer_for

pytestmark = [pytest.mark.usefixtures("ledger_clean_at_the_end"), pytest.mark.miners("anna")]

THREADS = conf.ALLOWANCE_THREADS


class Gate:
    """A place where the thread of a call stops until it is let go."""

    def __init__(self) -> None:
        self.reached, self.let_go = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.let_go.wait(DEADLINE)


@contextmanager
def stopped(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, *, after: bool) -> Iterator[Gate]:
    """Stop calls of a function of a module at a gate, before or after they did their work."""
    gate, original = Gate(), getattr(module, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        if not after:
            gate()
        result = original(*args, **kwargs)
        if after:
            gate()
        return result

    with monkeypatch.context() as patch:
        patch.setattr(module, name, call)
        try:
            yield gate
        finally:
            gate.let_go.set()


async def settle() -> None:
    """Wait until the pool has nothing left to do."""
    everyone = threading.Barrier(THREADS)
    await asyncio.gather(*(in_database_thread(everyone.wait)(DEADLINE) for _ in range(THREADS)))


async def ends() -> list[str]:
    """Return what became of all reservations, once the pool has nothing left to do."""
    await settle()
    return await in_database_thread(
        lambda: list(Reservation.objects.order_by("created_at").values_list("state", flat=True))
    )()


def pick() -> asyncio.Task[JobRoute]:
    return asyncio.ensure_future(routing().pick_miner_for_job_request(job_request()))


def reserve() -> asyncio.Task[tuple[int, list[int]]]:
    return asyncio.ensure_future(
        allowance().areserve_allowance(
            miner="anna", executor_class=CLASS, allowance_seconds=30, job_start_block=FIRST_BLOCK + 20
        )
    )


async def cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


STOPS = [
    (pick, service, "decide"),
    (reserve, reservations, "reserve"),
]


@pytest.mark.parametrize(("call", "module", "name"), STOPS, ids=["pick", "reserve"])
@pytest.mark.parametrize("after", [False, True], ids=["before it reserves", "after it reserved"])
async def test_what_a_thread_reserves_for_nobody_is_released(
    call: Callable[[], asyncio.Task[Any]], module: Any, name: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stopped(monkeypatch, module, name, after=after) as gate:
        task = call()
        await asyncio.to_thread(gate.reached.wait, DEADLINE)
        await cancel(task)
    assert await ends() == ["released"]


async def test_a_timeout_is_a_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    with stopped(monkeypatch, service, "decide", after=True) as gate:
        task = pick()
        await asyncio.to_thread(gate.reached.wait, DEADLINE)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task, 0.01)
    assert await ends() == ["released"]


@asynccontextmanager
async def socket() -> AsyncIterator[WebsocketCommunicator]:
    communicator = consumer_for(await in_database_thread(User.objects.create_superuser)("root"))
    assert (await communicator.connect(DEADLINE))[0]
    yield communicator


async def test_a_consumer_that_is_cancelled_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a server does with whoever is still busy when it shuts down."""
    async with socket() as communicator:
        with stopped(monkeypatch, service, "decide", after=True) as gate:
            await communicator.send_to(job_request().model_dump_json())
            await asyncio.to_thread(gate.reached.wait, DEADLINE)
            await cancel(communicator.future)
    assert await ends() == ["released"]


async def test_a_consumer_that_is_cancelled_while_it_answers_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that reads slowly keeps its answer waiting."""
    sending = asyncio.Event()

    async def send(_self: JobConsumer, _answer: object) -> None:
        sending.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(JobConsumer, "send", send)
    async with socket() as communicator:
        await communicator.send_to(job_request().model_dump_json())
        await asyncio.wait_for(sending.wait(), DEADLINE)
        await cancel(communicator.future)
    assert await ends() == ["released"]


async def test_a_client_that_hung_up_holds_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What a server raises then is an OSError."""
    sent = asyncio.Event()

    async def send(_self: JobConsumer, _answer: object) -> None:
        sent.set()
        raise ConnectionResetError

    monkeypatch.setattr(JobConsumer, "send", send)
    async with socket() as communicator:
        await communicator.send_to(job_request().model_dump_json())
        await asyncio.wait_for(sent.wait(), DEADLINE)
        await communicator.disconnect(timeout=DEADLINE)
    assert await ends() == ["released"]
    assert [r for r in caplog.records if r.levelname == "ERROR"] == []


async def test_a_call_whose_loop_ends_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody cancels a coroutine then, it is closed."""
    with stopped(monkeypatch, service, "decide", after=True) as gate:
        call = routing().pick_miner_for_job_request(job_request())
        call.send(None)
        await asyncio.to_thread(gate.reached.wait, DEADLINE)
        call.close()
    assert await ends() == ["released"]


async def test_a_call_that_has_not_begun_never_does() -> None:
    gates = [Gate() for _ in range(THREADS)]
    busy = [asyncio.ensure_future(in_database_thread(gate)()) for gate in gates]
    for gate in gates:
        await asyncio.to_thread(gate.reached.wait, DEADLINE)
    task = pick()
    await asyncio.sleep(0)
    await cancel(task)
    for gate in gates:
        gate.let_go.set()
    await asyncio.gather(*busy)
    assert await ends() == []


async def test_a_route_that_is_on_its_way_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread is done and the task is cancelled before it hears of that: the loop was busy meanwhile."""
    left, leave = threading.Event(), Handover.leave

    def leave_and_tell(handover: Handover[JobRoute], route: JobRoute) -> bool:
        wanted = leave(handover, route)
        left.set()
        return wanted

    monkeypatch.setattr(Handover, "leave", leave_and_tell)
    task = pick()
    await asyncio.sleep(0)  # now the call is in the pool
    assert left.wait(DEADLINE)
    await cancel(task)
    assert await ends() == ["released"]


async def test_what_can_t_be_released_lapses_and_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:

    monkeypatch.setattr(reservations, "release_undelivered", raising(OperationalError("the connection is lost")))
    with stopped(monkeypatch, service, "decide", after=True) as gate:
        task = pick()
        await asyncio.to_thread(gate.reached.wait, DEADLINE)
        await cancel(task)
    assert await ends() == ["held"]
    assert "Could not release" in caplog.text


@pytest.mark.miners("anna", "bert", blocks=60, executors=50)
async def test_many_cancelled_picks_leak_neither_holds_nor_connections() -> None:
    everyone = threading.Barrier(THREADS)
    await asyncio.gather(*(in_database_thread(connect)(everyone) for _ in range(THREADS)))
    before = await in_database_thread(connected)()  # those of a server for other tests too, which has nothing to do now
    for after in range(40):
        tasks = [pick() for _ in range(5)]
        await asyncio.sleep(0.002 * after)
        for task in tasks:
            task.cancel()
        kept = [r for r in await asyncio.gather(*tasks, return_exceptions=True) if isinstance(r, JobRoute)]
        for route in kept:
            await allowance().aundo_allowance_reservation(route.allowance_reservation_id or 0)
    assert set(await ends()) == {"released"}
    assert sum(thread.name.startswith("allowance") for thread in threading.enumerate()) == THREADS
    assert await in_database_thread(connected)() <= before


def connect(everyone: threading.Barrier) -> None:
    """Connect a thread of the pool to the database, and wait until all of them are."""
    connections["default"].ensure_connection()
    everyone.wait(DEADLINE)


def connected() -> int:
    """Return how many connections to the database there are, as far as it knows."""
    if connection.vendor != "postgresql":
        return 0
    with connections["default"].cursor() as cursor:
        cursor.execute(
            "SELECT COUNT(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND backend_type = 'client backend'"
        )
        (count,) = cursor.fetchone()
        return int(count)


@pytest.mark.parametrize("first", ["leave", "go"])
def test_exactly_one_side_answers_for_a_result(first: str) -> None:
    handover: Handover[str] = Handover()
    if first == "leave":
        assert handover.leave("route")
        assert handover.go() == ["route"]
    else:
        assert handover.go() == []
        assert not handover.leave("route")
