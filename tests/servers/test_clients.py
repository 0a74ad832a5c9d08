"""What one client may do over all its sockets, in all processes that share a Redis; and what two sites may not hear."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from django.conf import settings
from websockets.asyncio.client import ClientConnection

from allowance.plumbing.threads import in_database_thread
from routing.access import tokens
from routing.access.tokens import Scope
from routing.sockets.messages import Reason, Refused, Rejected, Routed
from tests.servers.client import (
    about,
    acknowledge,
    all_events,
    answer,
    ask,
    closed_with,
    follow,
    hear,
    hear_of,
    route,
    say,
    socket,
    until,
)
from tests.servers.redis import Redis, own_redis
from tests.servers.server import DAPHNE, UVICORN, Server, servers
from tests.sockets import JSON, job

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.asyncio,
    pytest.mark.usefixtures("ledger"),
]

HOUR = dt.timedelta(hours=1)
MOST = 4
BOUNDS = {
    "ROUTING_CLIENT_CONNECTIONS": MOST,
    "ROUTING_CLIENT_REFUSALS_PER_MINUTE": 10,
    "ROUTING_SOCKET_RECHECK_SECONDS": 1,  # so a socket may be renewed two seconds late and still counts
}
Pair = tuple[Server, Server]


@pytest.fixture(scope="module")
def pair(redis: Redis, django_db_setup: None) -> Iterator[Pair]:
    with servers(2, REDIS_URL=redis.url, **BOUNDS) as (one, other):
        yield one, other
        assert one.troubles + other.troubles == []


@pytest.fixture
def token(transactional_db: None, request: pytest.FixtureRequest) -> str:
    """Return a token of a client of this test's own: the counts outlive a test."""
    return tokens.issue(request.node.name[:60], [Scope.JOBS, Scope.EVENTS, Scope.METRICS], HOUR)[1]


@asynccontextmanager
async def open_sockets(*of: Server, token: str) -> AsyncIterator[list[ClientConnection]]:
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(socket(server, token)) for server in of]
        for connection in opened:
            await route(connection, job(on_trusted_miner=True))
        yield opened


def too_long() -> JSON:
    """Return a job of a class that no miner has."""
    return job(executor_class="always_on.llm.a6000")


async def test_a_client_has_so_many_sockets_over_all_processes(pair: Pair, token: str) -> None:
    async with open_sockets(*pair, *pair, token=token):
        for server in pair:
            async with socket(server, token) as one_more:
                assert await closed_with(one_more) == 4429
                assert "Close another socket first" in str(one_more.close_reason)
        _, other = await in_database_thread(tokens.issue)("other", [Scope.JOBS], HOUR)
        async with open_sockets(pair[0], token=other):
            pass
    async with open_sockets(*pair, *pair, token=token):
        pass


async def test_sockets_stay_counted_for_as_long_as_they_are_open(pair: Pair, token: str) -> None:
    async with open_sockets(*pair, *pair, token=token):
        await asyncio.sleep(4)  # longer than a lease that is not renewed
        async with socket(pair[1], token) as one_more:
            assert await closed_with(one_more) == 4429


async def test_a_process_that_is_killed_gives_its_sockets_back_in_time(pair: Pair, redis: Redis, token: str) -> None:
    async def one_more_stays() -> bool:
        async with socket(pair[0], token) as connection:
            try:
                await say(connection, job(on_trusted_miner=True))
                return isinstance(await answer(connection), Routed)
            except Exception:
                return False

    with servers(1, REDIS_URL=redis.url, **BOUNDS) as (doomed,):
        async with open_sockets(*[doomed] * MOST, token=token):
            assert not await one_more_stays()
            doomed.process.kill()
            await until(one_more_stays)


async def test_a_client_has_so_many_refusals_a_minute_over_all_processes(pair: Pair, token: str) -> None:
    async with open_sockets(*pair, token=token) as (one, other):
        reasons = [(await ask(side, too_long())) for _ in range(8) for side in (one, other)]
        assert all(isinstance(refused, Rejected) for refused in reasons)
        told = [refused.reason for refused in reasons if isinstance(refused, Rejected)]
        assert told.count(Reason.NOT_ENOUGH_ALLOWANCE) in {10, 11}  # a process hears of others' when it counts its own
        assert told[-1] == "REFUSED_TOO_OFTEN"


async def test_what_is_said_of_a_job_is_heard_in_spite_of_refusals(pair: Pair, token: str) -> None:
    async with open_sockets(*pair, token=token) as (one, other):
        routed = await route(one)
        for _ in range(12):
            last = await ask(other, too_long())
        assert isinstance(last, Rejected)
        assert last.reason == "REFUSED_TOO_OFTEN"
        assert last.retry_after_seconds
        assert 1 < last.retry_after_seconds <= 60
        assert (await acknowledge(other, about(routed, "job.failed"))).reservation == "released"


async def test_a_client_sends_so_many_messages_over_all_processes(redis: Redis, token: str) -> None:
    with servers(2, REDIS_URL=redis.url, ROUTING_CLIENT_MESSAGES_PER_SECOND=5) as (one, other):
        began = time.monotonic()
        async with open_sockets(one, other, token=token) as both:
            for connection in both:
                for _ in range(50):
                    await say(connection, job(on_trusted_miner=True))
            answers = [await answer(connection) for connection in both for _ in range(50)]
        seconds = time.monotonic() - began
    limited = [told for told in answers if isinstance(told, Refused)]
    assert len(answers) - len(limited) <= 5 * (seconds + 1)
    assert {(told.reason, "over all its sockets" in told.sentence) for told in limited} == {("RATE_LIMITED", True)}


async def test_a_redis_that_is_away_turns_no_client_away(token: str) -> None:
    with own_redis() as redis, servers(2, REDIS_URL=redis.url, **BOUNDS) as pair:
        async with open_sockets(*pair, token=token):
            redis.stop()
            async with open_sockets(*pair, token=token) as (one, _):
                await route(one)
                async with socket(pair[0], token) as third, socket(pair[0], token) as fourth:
                    await route(third)
                    await route(fourth)
                    async with socket(pair[0], token) as fifth:
                        assert await closed_with(fifth) == 4429
        assert "WARNING routing.sockets.quotas: Redis failed" in pair[0].log


async def test_sites_that_share_a_redis_hear_nothing_of_each_other(pair: Pair, redis: Redis, token: str) -> None:
    """The other site differs by its SECRET_KEY alone; it takes tokens of the former one, so that one client can ask."""
    site = {"SECRET_KEY": "of-a-staging-site" * 4, "SECRET_KEY_FALLBACKS": settings.SECRET_KEY}
    with servers(1, REDIS_URL=f"{redis.url}?db=1", **site) as (staging,):
        async with (
            all_events(staging, token) as watching,
            all_events(pair[1], token) as at_home,
            socket(pair[0], token) as one,
            socket(staging, token) as other,
        ):
            routed = await follow(one)
            await hear_of(at_home, routed, "job.routed")
            here = await route(other)
            heard = {(await hear(watching)).uuid}
            while here.uuid not in heard:
                heard.add((await hear(watching)).uuid)
            assert routed.uuid not in heard


@pytest.mark.parametrize("program", [UVICORN, DAPHNE], ids=["uvicorn", "daphne"])
async def test_a_token_in_an_address_is_refused_and_in_no_log(program: tuple[str, ...], token: str) -> None:
    with servers(1, program, LOG_LEVEL="DEBUG") as (server,):
        for name in ("token", "access_token", "x"):
            async with socket(server, token, f"jobs/?{name}={token}&more=") as connection:
                assert await closed_with(connection) == 4401
                assert program is DAPHNE or "Servers log addresses" in str(connection.close_reason)  # it sends none
        if program is UVICORN:  # Daphne has an access log of its own for pages
            with pytest.raises(AssertionError, match="Servers log addresses"):
                server.get(f"/metrics?token={token}", token)
        log = server.log
    assert "/ws/jobs/" in log
    head, body, signature = token.split(".")
    for part in (head, body, signature):
        assert part not in log


async def test_nobody_reaches_the_job_of_another_client_on_any_process(
    pair: Pair, token: str, request: pytest.FixtureRequest
) -> None:
    issue = in_database_thread(tokens.issue)
    _, stranger = await issue(f"stranger of {request.node.name}"[:60], [Scope.JOBS], HOUR)
    async with socket(pair[0], token) as ours, socket(pair[1], stranger) as theirs:
        routed = await route(ours)
        ways: dict[str, dict[str, object]] = {
            "job.started": {"validator_hotkey": "v"},
            "job.accepted": {"validator_hotkey": "v"},
            "job.finished": {"validator_hotkey": "v", "time_took_us": 1},
            "job.failed": {},
            "job.rejected_by_miner": {},
            "job.retry": {},
        }
        for kind, more in ways.items():
            refused = await ask(theirs, about(routed, kind, **more))
            assert isinstance(refused, Refused | Rejected)
            assert refused.reason == "JOB_UNKNOWN"
        taken = await ask(theirs, {**job(), "uuid": str(routed.uuid)})
        assert isinstance(taken, Rejected)
        assert taken.reason == "JOB_TAKEN"
        assert (await acknowledge(ours, about(routed, "job.failed"))).reservation == "released"


@pytest.mark.parametrize("trusted", [False, True])
async def test_of_two_clients_that_send_one_uuid_at_once_one_has_the_job(pair: Pair, trusted: bool) -> None:
    """Each client is a new one: the refusals that it gets here are fewer than BOUNDS allows."""
    names = [f"{name} {trusted}" for name in ("one", "other")]
    tokens_of = [(await in_database_thread(tokens.issue)(name, [Scope.JOBS], HOUR))[1] for name in names]
    async with socket(pair[0], tokens_of[0]) as one, socket(pair[1], tokens_of[1]) as other:
        for _ in range(8):
            message = job(on_trusted_miner=trusted)
            first, second = await asyncio.gather(ask(one, message), ask(other, message))
            assert {first.type, second.type} == {"job.routed", "job.rejected"}
            loser = first if isinstance(first, Rejected) else second
            assert isinstance(loser, Rejected)
            assert loser.reason == "JOB_TAKEN"
