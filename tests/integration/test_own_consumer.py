"""docs/own-consumer.md: what it shows is run."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.db import connections
from django.utils import timezone

from allowance.plumbing.threads import in_database_thread
from receipts import receipts
from receipts.schemas import JobStarted
from routing.models import MinerIncident
from routing.requests import V2JobRequest
from routing.types import JobRoute
from tests.ledgers import CLASS
from tests.rows import receive
from tests.sockets import JSON, PATIENCE, ask, job, reservations

pytestmark = [pytest.mark.usefixtures("ledger_clean_at_the_end"), pytest.mark.miners("anna", "bert")]

PAGE = Path(__file__).parents[2] / "docs" / "own-consumer.md"
SHOWN: dict[str, str] = dict(re.findall(r"^```python\n# yours/(\w+)\.py\n(.*?)^```$", PAGE.read_text(), re.M | re.S))


class Miners:
    """The reader's `send_to_miner`: those in `reject` don't take a job."""

    def __init__(self) -> None:
        self.reject: set[str] = set()
        self.asked: list[str] = []

    async def send(self, route: JobRoute, request: V2JobRequest) -> bool:
        hotkey = route.miner.hotkey_ss58
        self.asked.append(hotkey)
        if hotkey in self.reject:
            return False
        await in_database_thread(receive)(JobStarted, request.uuid, hotkey, executor_class=request.executor_class)
        return True


@pytest.fixture
def miners() -> Miners:
    return Miners()


@pytest.fixture
def application(miners: Miners, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The reader's own, made of what is shown."""

    def module(name: str, **contents: object) -> ModuleType:
        made = ModuleType(f"yours.{name}")
        vars(made).update(contents)
        monkeypatch.setitem(sys.modules, made.__name__, made)
        return made

    module("miners", send_to_miner=miners.send)
    for name, source in SHOWN.items():
        exec(compile(source, f"{PAGE.name}: {name}", "exec"), vars(module(name)))  # noqa: S102 (our own page)
    return sys.modules["yours.asgi"].application


@asynccontextmanager
async def connected(application: Any, path: str = "/ws/own/") -> AsyncIterator[WebsocketCommunicator]:
    communicator = WebsocketCommunicator(application, path)
    assert (await communicator.connect(PATIENCE))[0]
    yield communicator
    await communicator.disconnect(timeout=PATIENCE)
    await sync_to_async(connections.close_all)()  # of a thread outside our pool, which looked for a session


async def reply(application: Any, **changes: object) -> JSON:
    """Return what the consumer says of a job."""
    async with connected(application) as communicator:
        return await ask(communicator, **changes)


async def ends() -> dict[str, str]:
    """Return what became of each miner's reservation."""
    return {reservation.account.miner_id: reservation.state for reservation in await reservations()}


async def incidents() -> list[tuple[str, str]]:
    found = MinerIncident.objects.order_by("pk").values_list("hotkey_ss58address", "type")
    return await in_database_thread(lambda: list(found))()


async def test_the_page_shows_a_consumer_and_how_to_mount_it() -> None:
    assert list(SHOWN) == ["consumers", "asgi"]
    assert len(SHOWN["consumers"][SHOWN["consumers"].index("class ") :].splitlines()) == 17


async def test_a_job_is_routed_and_paid_for(application: Any) -> None:
    assert await reply(application) == {"miner": "anna"}
    assert await ends() == {"anna": "spent"}
    assert await incidents() == []
    busy = in_database_thread(receipts().get_busy_executor_count)
    assert await busy(CLASS, timezone.now()) == {"anna": 1}


async def test_a_job_that_a_miner_rejects_goes_to_another(application: Any, miners: Miners) -> None:
    miners.reject = {"anna"}
    request = job()
    assert await reply(application, **request) == {"miner": "bert"}
    assert await ends() == {"anna": "released", "bert": "spent"}
    assert await incidents() == [("anna", "MINER_JOB_REJECTED")]
    assert {str(reservation.job_uuid) for reservation in await reservations()} == {request["uuid"]}


async def test_a_job_that_all_reject_is_refused(application: Any, miners: Miners) -> None:
    miners.reject = {"anna", "bert"}
    assert (await reply(application))["refused"].startswith("No miner has 60 s of allowance")
    assert await ends() == {"anna": "released", "bert": "released"}
    assert sorted(await incidents()) == [("anna", "MINER_JOB_REJECTED"), ("bert", "MINER_JOB_REJECTED")]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"execution_time_limit": 900}, "No miner has 920 s of allowance"),
        ({"execution_time_limit": 3600}, "A job may take at most 3600 s"),
        ({"uuid": "nonsense"}, "uuid"),
        ({"priority": 1}, "priority"),
    ],
)
async def test_a_job_that_nobody_can_take_is_refused(
    changes: JSON, sentence: str, application: Any, miners: Miners
) -> None:
    async with connected(application) as communicator:
        assert sentence in (await ask(communicator, **changes))["refused"]
        assert (await reservations(), miners.asked) == ([], [])
        assert (await ask(communicator))["miner"]


@pytest.mark.parametrize("mistake", [{"args": "--fast"}, {"priority": 1}, {"execution_time_limit": None}], ids=str)
async def test_a_refusal_of_a_message_is_one_sentence_that_shows_nothing_else_of_it(
    mistake: JSON, application: Any
) -> None:
    refused: str = (await reply(application, env={"TOKEN": "a secret"}, **mistake))["refused"]
    assert next(iter(mistake)) in refused
    for unwanted in ("\n", "http", "pydantic", "a secret", "V2JobRequest"):
        assert unwanted not in refused


async def test_what_is_mounted_beside_it_is_ours(application: Any) -> None:
    async with connected(application, "/ws/jobs/") as communicator:
        closing = await communicator.receive_output(PATIENCE)
    assert (closing["type"], closing["code"]) == ("websocket.close", 4401)
