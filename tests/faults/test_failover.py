"""A failover under load: routers go on by themselves on the promoted server, and decide by what that one has."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from uuid import UUID

import pytest
from django.db import connection
from django.utils import timezone

from allowance import allowance
from allowance.oversight.audit import check_ledger
from allowance.types import ReservationNotFound
from receipts import receipts
from receipts.schemas import JobStarted
from routing import routing
from routing.decision import reading
from routing.types import AllMinersBusy
from tests.factories import job_request, stored
from tests.faults.aftermath import Route, Told, assert_unharmed
from tests.faults.cluster import Cluster, Pair, private_pair
from tests.faults.crowd import crowd
from tests.faults.load import SECONDS
from tests.faults.operations import MINERS
from tests.ledgers import CLASS, FIRST_BLOCK, fill_ledger

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no standby"),
    pytest.mark.slow,
]

BLOCKS = 61
NEXT_BLOCK = FIRST_BLOCK + BLOCKS


@pytest.fixture(autouse=True)
def memory_does_not_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process read all rows again only if it must, however slow the machine is."""
    monkeypatch.setattr(reading, "LASTS", math.inf)


def test_a_synchronous_standby_has_all_that_callers_were_told() -> None:
    with private_pair(synchronous=True) as pair:
        fill_ledger(*MINERS, *"defg", blocks=BLOCKS, executors=1000)
        with crowd() as routers:
            routers.wait_for_picks()
            (first, of_all), (second, of_changes) = pick_here(), pick_here()
            pair.fail_over()
            promoted = time.time()
            third, statements = pick_here()  # though the connection broke
            assert of_all[0] in statements
            assert of_all[0] not in of_changes
            routers.wait_for_picks()
            routers.stop()
            assert routers.errors
            assert routers.failed < promoted
            assert len(routers.routes) >= 60
            here = [Told(route, frozenset({"held"})) for route in (first, second, third)]
            reading.forget()
            assert_unharmed(routers.pick, told=[*routers.told, *here], untold=routers.unrouted)


def test_what_an_asynchronous_standby_lost_is_forgotten() -> None:
    with private_pair(synchronous=False) as pair:
        fill_ledger(*MINERS, *"defg", blocks=BLOCKS, executors=1000)
        with crowd() as routers:
            routers.wait_for_picks()
            pair.replicate()
            pair.cut_off()
            allowance().record_block(number=NEXT_BLOCK, timestamp=timezone.now(), stake_share=0.5)
            routers.wait_for_picks()
            pair.fail_over()
            promoted = time.time()
            assert allowance().get_current_block() == NEXT_BLOCK - 1
            routers.wait_for_picks()
            allowance().record_block(number=NEXT_BLOCK, timestamp=timezone.now(), stake_share=0.25)
            routers.wait_for_picks()
            routers.stop()
            assert routers.failed < promoted
            lost = routers.routes.keys() - of_server(pair.standby).keys()
            assert lost
            assert all(routers.began[reservation] < promoted for reservation in lost)
            assert {reservation for reservation, end in routers.ended.items() if end == "lost"} <= lost
            assert_not_found(lost)
            told = [
                # What was told before of a reservation's end may be lost, too.
                Told(route, states | {"held"} if routers.began[route.reservation] < promoted else states)
                for route, states in routers.told
                if route.reservation not in lost
            ]
            reading.forget()
            assert_unharmed(routers.pick, told=told, untold=routers.unrouted)
            connection.close()
            pair.primary.restart("immediate")
            before, after = of_server(pair.primary), of_server(pair.standby)
            assert lost <= before.keys() - after.keys()
            assert {pk: before[pk] for pk in before.keys() & after.keys()}.items() <= after.items()


def test_a_memory_of_lost_rows_is_forgotten() -> None:
    with private_pair(synchronous=False) as pair:
        keep_all_busy_and_lose_it(pair)
        assert routing().pick(job_request(LONG)).miner.hotkey_ss58 == "anna"
        assert list(check_ledger()) == []


def test_control_where_servers_look_the_same_the_memory_of_lost_rows_stays() -> None:
    with private_pair(synchronous=False) as pair:
        pair.primary.sql(
            "CREATE FUNCTION public.pg_postmaster_start_time() RETURNS timestamptz LANGUAGE sql AS "
            "$$ SELECT timestamptz '2026-01-01 00:00:00+00' $$"
        )
        pair.primary.sql("ALTER DATABASE postgres SET search_path = public, pg_catalog")
        keep_all_busy_and_lose_it(pair)
        with pytest.raises(AllMinersBusy):
            routing().pick(job_request(LONG))
        reading.forget()
        assert routing().pick(job_request(LONG)).miner.hotkey_ss58 == "anna"


LONG = 360
"""Seconds of a job that lasts longer than a test."""


def keep_all_busy_and_lose_it(pair: Pair) -> None:
    """Let this process read that all miners are busy, and fail over to a server on which none of them ever was.

    Transactions on that server then have numbers above all that this process has seen.
    """
    fill_ledger("anna", "bert", blocks=BLOCKS, executors=1)
    pair.replicate()
    pair.cut_off()
    receipts().record(
        JobStarted(
            job_uuid=UUID(int=1),
            miner_hotkey="bert",
            validator_hotkey="validator",
            timestamp=timezone.now(),
            executor_class=CLASS,
            ttl=3600,
        )
    )
    assert routing().pick(job_request(LONG)).miner.hotkey_ss58 == "anna"
    with pytest.raises(AllMinersBusy):
        routing().pick(job_request(LONG))
    seen = new_transaction(pair.primary)
    pair.fail_over()
    while new_transaction(pair.standby) <= seen:
        pass


def new_transaction(server: Cluster) -> int:
    """Let a server give a number to another transaction, and return it."""
    [[number]] = server.sql("SELECT pg_current_xact_id()::text::bigint")
    return int(number)


def pick_here() -> tuple[Route, list[str]]:
    """Pick in this process, which is a router too. Return the texts of the statements as well."""
    texts: list[str] = []

    def note(execute: Callable[..., object], sql: str, *rest: object) -> object:
        texts.append(sql)
        return execute(sql, *rest)

    with connection.execute_wrapper(note):
        return Route.of(routing().pick(job_request(SECONDS))), texts


def of_server(server: Cluster) -> dict[int, UUID | None]:
    """Return the jobs of all reservations that a server has, by id."""
    return dict(server.sql("SELECT id, job_uuid FROM allowance_reservation"))


def assert_not_found(lost: Collection[int]) -> None:
    """Spend and release lost reservations, as callers do late, and assert that nothing comes of it."""
    before = stored()
    for reservation in lost:
        for end in (allowance().spend_allowance, allowance().undo_allowance_reservation):
            with pytest.raises(ReservationNotFound) as caught:
                end(reservation)
            assert caught.type is ReservationNotFound  # not that it was released
    assert stored() == before
