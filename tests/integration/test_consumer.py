"""The socket: who is let in, and what becomes of good and bad messages."""

from __future__ import annotations

import json

import pytest
from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from django.test import Client

from tests.ledgers import CLASS, FIRST_BLOCK
from tests.rows import AXON
from tests.sockets import (
    JSON,
    PATIENCE,
    answer,
    ask,
    consumer_for,
    job,
    reservations,
    socket,
    tell,
    whole_application,
)

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("ledger_clean_at_the_end"), pytest.mark.miners("hot-1")]

LOCALHOST = (b"origin", b"http://localhost")


@pytest.fixture
def stranger(transactional_db: None) -> User:
    return User.objects.create_user("stranger")


async def closed_with(user: AnonymousUser | User | None) -> int:
    """Return the code with which `user` is closed, having sent a good job as early as can be."""
    communicator = consumer_for(user)
    await communicator.send_input({"type": "websocket.connect"})
    await communicator.send_json_to(job())
    assert (await communicator.receive_output(PATIENCE))["type"] == "websocket.accept"
    closing: JSON = await communicator.receive_output(PATIENCE)
    await communicator.send_json_to(job())
    assert await communicator.receive_nothing(timeout=0.3)
    assert await reservations() == []
    await communicator.disconnect(timeout=PATIENCE)
    assert closing["type"] == "websocket.close"
    code: int = closing["code"]
    return code


@pytest.mark.parametrize("user", [None, AnonymousUser()], ids=["no-user", "anonymous"])
async def test_whoever_is_not_logged_in_is_closed_and_never_heard(user: AnonymousUser | None) -> None:
    assert await closed_with(user) == 4401


async def test_whoever_lacks_the_permission_is_closed_and_never_heard(stranger: User) -> None:
    assert await closed_with(stranger) == 4403


async def test_whoever_is_inactive_lacks_the_permission(facilitator: User) -> None:
    facilitator.is_active = False
    assert await closed_with(facilitator) == 4403


async def test_a_job_is_routed_and_its_allowance_reserved(facilitator: User) -> None:
    request = job()
    async with socket(facilitator) as communicator:
        routed = await tell(communicator, request)
    (reservation,) = await reservations()
    assert routed == {
        "type": "job.routed",
        "uuid": request["uuid"],
        "miner": {**AXON, "hotkey_ss58": "hot-1"},
        "allowance_blocks": list(range(FIRST_BLOCK, FIRST_BLOCK + 5)),
        "allowance_reservation_id": reservation.pk,
        "expires_at": reservation.expires_at.isoformat().replace("+00:00", "Z"),
    }
    assert str(reservation.job_uuid) == request["uuid"]
    assert reservation.blocks == routed["allowance_blocks"]
    assert (reservation.account.miner_id, reservation.account.executor_class) == ("hot-1", CLASS)


async def test_a_job_for_the_trusted_miner_reserves_nothing(facilitator: User) -> None:
    async with socket(facilitator) as communicator:
        routed = await ask(communicator, on_trusted_miner=True)
    assert (routed["miner"]["hotkey_ss58"], routed["allowance_reservation_id"]) == ("0" * 48, None)
    assert await reservations() == []


async def test_a_refusal_names_its_reason(facilitator: User) -> None:
    request = job(execution_time_limit=1000)
    async with socket(facilitator) as communicator:
        rejected = await tell(communicator, request)
    assert (rejected["type"], rejected["uuid"]) == ("job.rejected", request["uuid"])
    assert rejected["reason"] == "NOT_ENOUGH_ALLOWANCE"
    assert rejected["counts"] == {"allowance": 1}
    assert "1020 s" in rejected["sentence"]
    assert "hot-1" not in rejected["sentence"]
    assert await reservations() == []


BAD: dict[str, tuple[str, str]] = {
    "malformed": ("BAD_MESSAGE", '{"uuid": '),
    "empty": ("BAD_MESSAGE", ""),
    "array": ("BAD_MESSAGE", "[]"),
    "array-of-jobs": ("BAD_MESSAGE", json.dumps([job()])),
    "null": ("BAD_MESSAGE", "null"),
    "deep": ("BAD_MESSAGE", "[" * 100_000),
    "no-field": ("BAD_MESSAGE", "{}"),
    "unknown-class": ("BAD_MESSAGE", json.dumps(job(executor_class="quantum"))),
    "unknown-field": ("BAD_MESSAGE", json.dumps(job(priority=1))),
    "fraction": ("BAD_MESSAGE", json.dumps(job(execution_time_limit=0.5))),
    "nan": ("BAD_MESSAGE", json.dumps(job(execution_time_limit=float("nan")))),
    "surrogate": ("BAD_MESSAGE", json.dumps(job(uuid="\ud800"))),
    "too-long": ("JOB_TOO_LONG", json.dumps(job(execution_time_limit=3581))),
    "far-too-long": ("JOB_TOO_LONG", json.dumps(job(execution_time_limit=10**400))),
    "no-time": ("BAD_MESSAGE", json.dumps(job(**{f"{k}_time_limit": 0 for k in ("download", "execution", "upload")}))),
    "negative": ("BAD_MESSAGE", json.dumps(job(download_time_limit=-1))),
    "bad-uuid": ("BAD_MESSAGE", json.dumps(job(uuid="not-a-uuid"))),
    "broken-uuid": ("BAD_MESSAGE", json.dumps(job(uuid="\n" + "1" * 30 + "\n"))),
    "long-field": ("BAD_MESSAGE", json.dumps(job(**{"f" * 100_000: 1}))),
    "many-bad-args": ("BAD_MESSAGE", json.dumps(job(args=[1] * 100_000))),
    "too-big": ("BAD_MESSAGE", json.dumps(job(args=["a" * 2**20]))),
    "nul-uuid": ("BAD_MESSAGE", json.dumps(job(uuid="\0" * 36))),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_message_is_answered_and_the_next_good_one_served(case: str, facilitator: User) -> None:
    reason, text = BAD[case]
    async with socket(facilitator) as communicator:
        await communicator.send_input({"type": "websocket.receive", "text": text})
        rejected = await answer(communicator)
        assert rejected["reason"] == reason
        assert rejected["type"] == ("job.rejected" if rejected["uuid"] else "error")
        assert 0 < len(rejected["sentence"]) < 1000
        assert await reservations() == []
        assert (await ask(communicator))["type"] == "job.routed"


@pytest.mark.parametrize("garbage", [b"\xff\xfe\x00", b"\x00", bytes(range(256)), b""])
async def test_binary_garbage_is_answered_and_the_next_good_message_served(garbage: bytes, facilitator: User) -> None:
    async with socket(facilitator) as communicator:
        await communicator.send_input({"type": "websocket.receive", "bytes": garbage})
        refused = await answer(communicator)
        assert (refused["type"], refused["uuid"], refused["reason"]) == ("error", None, "BAD_MESSAGE")
        assert (await ask(communicator))["type"] == "job.routed"


async def test_a_job_in_a_binary_frame_is_as_good(facilitator: User) -> None:
    async with socket(facilitator) as communicator:
        await communicator.send_to(bytes_data=json.dumps(job()).encode())
        assert (await answer(communicator))["type"] == "job.routed"


async def test_several_jobs_on_one_socket_get_several_reservations(facilitator: User) -> None:
    jobs = [job() for _ in range(3)]
    async with socket(facilitator) as communicator:
        for request in jobs:
            await communicator.send_json_to(request)
        answers = [await answer(communicator) for _ in jobs]
    assert {a["uuid"] for a in answers} == {request["uuid"] for request in jobs}
    answers.sort(key=lambda a: str(a["type"]), reverse=True)
    assert [a["type"] for a in answers] == ["job.routed", "job.routed", "job.rejected"]  # two executors
    assert answers[2]["reason"] == "ALL_MINERS_BUSY"
    taken = [block for reservation in await reservations() for block in reservation.blocks]
    assert len(taken) == len(set(taken)) == 10


@pytest.fixture
def cookie(facilitator: User, client: Client) -> tuple[bytes, bytes]:
    client.force_login(facilitator)
    session = client.cookies[settings.SESSION_COOKIE_NAME].value
    return b"cookie", f"{settings.SESSION_COOKIE_NAME}={session}".encode()


@pytest.mark.parametrize("origin", [[LOCALHOST], []], ids=["a page of ours", "no browser"])
async def test_the_application_serves_whoever_has_a_session(
    origin: list[tuple[bytes, bytes]], cookie: tuple[bytes, bytes]
) -> None:
    async with whole_application(*origin, cookie) as communicator:
        assert await communicator.connect(PATIENCE) == (True, None)
        assert (await ask(communicator))["type"] == "job.routed"


async def test_an_unknown_path_is_closed_without_an_exception(cookie: tuple[bytes, bytes]) -> None:
    async with whole_application(LOCALHOST, cookie, path="/ws/nope/") as communicator:
        assert not (await communicator.connect(PATIENCE))[0]


async def test_the_application_closes_whoever_has_none() -> None:
    async with whole_application(LOCALHOST) as communicator:
        assert await communicator.connect(PATIENCE) == (True, None)
        reason = "Authentication required: send a token or log in."
        closing = {"type": "websocket.close", "code": 4401, "reason": reason}
        assert await communicator.receive_output(PATIENCE) == closing


@pytest.mark.parametrize("origin", [b"http://evil.example", b"http://localhost.evil.example", b"null"])
async def test_the_application_refuses_a_foreign_origin(origin: bytes, cookie: tuple[bytes, bytes]) -> None:
    async with whole_application(cookie, (b"origin", origin)) as communicator:
        assert await communicator.connect(PATIENCE) == (True, None)
        closing = await communicator.receive_output(PATIENCE)
        assert (closing["type"], closing["code"]) == ("websocket.close", 4403)
    assert await reservations() == []
