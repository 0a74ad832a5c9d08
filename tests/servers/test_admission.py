"""Whoever comes over the network: let in with a token, and thrown out once it is revoked."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import pytest

from allowance.plumbing.threads import in_database_thread
from routing.access import tokens
from routing.access.tokens import Scope
from tests.factories import run_command
from tests.servers.client import all_events, closed_with, hear_of, route, socket
from tests.servers.server import DAPHNE, UVICORN, Server, servers

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.asyncio,
    pytest.mark.usefixtures("ledger"),
]

HOUR = dt.timedelta(hours=1)


@pytest.fixture(scope="module", params=[UVICORN, DAPHNE], ids=["uvicorn", "daphne"])
def server(request: pytest.FixtureRequest, django_db_setup: None) -> Iterator[Server]:
    with servers(1, request.param, ROUTING_SOCKET_RECHECK_SECONDS=0.1) as (server,):
        yield server
        assert server.troubles == []


async def test_a_token_from_the_command_opens_a_socket(server: Server) -> None:
    token = (await in_database_thread(run_command)("issue_token", "client", "--scope", "jobs")).out.strip()
    async with socket(server, token) as connection:
        assert (await route(connection)).allowance_blocks


async def test_a_page_brings_its_token_as_a_subprotocol(server: Server, token: str) -> None:
    async with socket(server, subprotocols=["access_token", token]) as connection:
        assert connection.subprotocol == "access_token"
        await route(connection)


@pytest.mark.parametrize("path", ["jobs", "events"])
@pytest.mark.parametrize("token", ["", "nonsense", "a.b.c"])
async def test_without_a_good_token_nobody_stays(server: Server, token: str, path: str) -> None:
    async with socket(server, token, path) as connection:
        assert await closed_with(connection) == 4401


@pytest.mark.parametrize(("path", "scope"), [("jobs", Scope.EVENTS), ("events", Scope.JOBS)])
async def test_a_token_for_something_else_opens_nothing(server: Server, path: str, scope: Scope) -> None:
    _, token = await in_database_thread(tokens.issue)("client", [scope], HOUR)
    async with socket(server, token, path) as connection:
        assert await closed_with(connection) == 4403


async def test_revoking_a_token_closes_the_sockets_that_it_opened(server: Server, token: str) -> None:
    _, other = await in_database_thread(tokens.issue)("other", list(Scope), HOUR)
    async with socket(server, token) as jobs, all_events(server, token) as events, socket(server, other) as stays:
        await hear_of(events, await route(jobs), "job.routed")
        assert (await in_database_thread(run_command)("revoke_token", "client")).code == 0
        assert [await closed_with(connection) for connection in (jobs, events)] == [4401] * 2
        await route(stays)
    async with socket(server, token) as again:
        assert await closed_with(again) == 4401
