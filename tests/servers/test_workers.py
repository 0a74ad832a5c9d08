"""Two workers, one database, one Redis: whichever is asked, a job has one route, and all hear what becomes of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from uuid import UUID

import pytest
from websockets.asyncio.client import ClientConnection

from allowance.models import ReservationState
from allowance.plumbing.threads import in_database_thread
from receipts.models import JobFinishedReceipt
from routing.sockets.messages import Acknowledged, Rejected, Routed
from tests.servers.client import (
    about,
    acknowledge,
    all_events,
    answer,
    ask,
    finished,
    follow,
    hear_of,
    route,
    say,
    socket,
)
from tests.servers.redis import Redis
from tests.servers.server import UNBOUNDED, Server, servers
from tests.sockets import JSON, job, reservations

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.asyncio,
    pytest.mark.usefixtures("ledger"),
]

HELD, SPENT, RELEASED = ReservationState.HELD, ReservationState.SPENT, ReservationState.RELEASED

Pair = tuple[Server, Server]


@pytest.fixture(scope="module")
def pair(redis: Redis, django_db_setup: None) -> Iterator[Pair]:
    with servers(2, REDIS_URL=redis.url, **UNBOUNDED) as (one, other):
        yield one, other
        assert one.troubles + other.troubles == [], one.log + other.log


async def live() -> dict[UUID | None, int]:
    """Return the reservation of each job that has one, held or spent. No job may have two."""
    rows = [row for row in await reservations() if row.state in {HELD, SPENT}]
    assert Counter(row.job_uuid for row in rows).most_common(1)[0][1] == 1
    return {row.job_uuid: row.pk for row in rows}


async def routes(connection: ClientConnection, count: int) -> list[Routed]:
    """Return so many answers, which must all be routes."""
    answers = [await answer(connection) for _ in range(count)]
    routed = [answer for answer in answers if isinstance(answer, Routed)]
    assert routed == answers
    return routed


@pytest.mark.parametrize(
    ("message", "becomes"),
    [
        (finished, SPENT),
        (lambda routed: about(routed, "job.failed"), RELEASED),
        (lambda routed: about(routed, "job.rejected_by_miner"), RELEASED),
        (lambda routed: about(routed, "job.started", validator_hotkey="v"), HELD),
    ],
    ids=["finished", "failed", "rejected", "started"],
)
async def test_what_is_said_to_another_worker_reaches_who_asked_for_the_route(
    pair: Pair, token: str, message: Callable[[Routed], JSON], becomes: ReservationState
) -> None:
    async with (
        socket(pair[0], token) as one,
        socket(pair[1], token) as other,
        all_events(pair[1], token) as watching,
    ):
        routed = await follow(one)
        seen = await hear_of(watching, routed, "job.routed")
        assert (seen.miner, seen.allowance_reservation_id, seen.reservation) == (
            routed.miner.hotkey_ss58,
            routed.allowance_reservation_id,
            HELD,
        )
        said = message(routed)
        assert (await acknowledge(other, said)).reservation == becomes
        told = await hear_of(one, routed, said["type"])
        assert told == await hear_of(watching, routed, said["type"])
        assert (told.allowance_reservation_id, told.reservation) == (routed.allowance_reservation_id, becomes)
    assert {row.state for row in await reservations()} == {becomes}


async def test_the_same_job_asked_of_two_workers_at_once_gets_one_route(pair: Pair, token: str) -> None:
    """Ask both for each of 30 jobs, over two sockets each, without a pause."""
    jobs = [job() for _ in range(30)]
    async with (
        socket(pair[0], token) as a,
        socket(pair[0], token) as b,
        socket(pair[1], token) as c,
        socket(pair[1], token) as d,
    ):
        for request in jobs:
            await asyncio.gather(*(say(connection, request) for connection in (a, b, c, d)))
        answers = [await routes(connection, len(jobs)) for connection in (a, b, c, d)]
    told = {(routed.uuid, routed.allowance_reservation_id) for heard in answers for routed in heard}
    assert dict(told) == await live()
    assert len(told) == len(jobs)


async def test_a_rejected_job_is_retried_on_another_worker(pair: Pair, token: str) -> None:
    async with socket(pair[0], token) as one, socket(pair[1], token) as other:
        routed = await follow(one)
        assert (await acknowledge(one, about(routed, "job.rejected_by_miner"))).reservation == RELEASED
        again = await route(other, about(routed, "job.retry"))
        assert (await hear_of(one, routed, "job.routed")).miner == again.miner.hotkey_ss58
        assert (again.uuid, await live()) == (routed.uuid, {routed.uuid: again.allowance_reservation_id})
        assert again.miner != routed.miner
        assert await route(one, {**job(), "uuid": str(routed.uuid)}) == again


async def test_two_workers_told_at_once_to_retry_agree_on_the_next_miner(pair: Pair, token: str) -> None:
    async with socket(pair[0], token) as one, socket(pair[1], token) as other:
        for _ in range(10):
            routed = await route(one)
            retry = about(routed, "job.retry")
            first, second = await asyncio.gather(route(one, retry), route(other, retry))
            assert first == second
            assert first.miner != routed.miner
            assert (await live())[routed.uuid] == first.allowance_reservation_id


async def test_a_job_that_two_workers_hear_different_things_of_at_once_ends_once(pair: Pair, token: str) -> None:
    async with socket(pair[0], token) as one, socket(pair[1], token) as other, socket(pair[0], token) as asking:
        told = {}
        for _ in range(10):
            routed = await route(asking)
            said = finished(routed), about(routed, "job.failed")
            paid, failed = await asyncio.gather(acknowledge(one, said[0]), acknowledge(other, said[1]))
            assert paid.reservation == failed.reservation != HELD
            told[paid.allowance_reservation_id] = paid.reservation
            refused = await ask(other, {**job(), "uuid": str(routed.uuid)})
            assert isinstance(refused, Rejected)
            assert refused.reason == "JOB_ALREADY_OVER"
    assert {row.pk: row.state for row in await reservations()} == told
    assert await in_database_thread(JobFinishedReceipt.objects.count)() == len(told)


async def test_all_hear_of_a_job_whose_client_hangs_up_as_soon_as_it_is_answered(
    pair: Pair, redis: Redis, token: str
) -> None:
    """Keep Redis busy for a moment, so that the news is still under way when the client is gone."""
    async with all_events(pair[0], token) as watching, socket(pair[0], token) as one:
        for _ in range(3):
            routed = await follow(one)
            async with socket(pair[1], token) as short:
                await asyncio.to_thread(redis.hang, 0.2)
                await acknowledge(short, about(routed, "job.failed"))
                short.transport.abort()
            await hear_of(watching, routed, "job.failed")
            await hear_of(one, routed, "job.failed")


async def test_a_worker_that_is_killed_leaves_its_jobs_to_the_others(pair: Pair, redis: Redis, token: str) -> None:
    """Kill it when some of its jobs have been answered, and as many are under way."""
    known, unknown = [job() for _ in range(10)], [job() for _ in range(10)]
    with servers(1, REDIS_URL=redis.url, **UNBOUNDED) as (doomed,):
        async with socket(pair[1], token) as other, socket(doomed, token) as one:
            told = {str(routed.uuid): routed for routed in [await route(one, request) for request in known]}
            for request in unknown:
                await say(one, request)
            doomed.process.kill()
            again = {request["uuid"]: await route(other, request) for request in known + unknown}
            assert {uuid: again[uuid] for uuid in told} == told
            assert await live() == {UUID(uuid): routed.allowance_reservation_id for uuid, routed in again.items()}
            for routed in again.values():
                assert isinstance(await ask(other, finished(routed)), Acknowledged)
    assert {row.state for row in await reservations()} == {SPENT}
