"""Connections that break: under load, between any two statements, and just when a COMMIT was done."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from asgiref.sync import async_to_sync
from django.db import OperationalError, connection
from django.utils import timezone
from pytest_django.fixtures import Settings

from allowance.models import Reservation, ReservationState
from allowance.plumbing.threads import in_database_thread
from routing import routing
from tests.backends import backend_pid
from tests.factories import job_request
from tests.faults.aftermath import Route, Told, assert_unharmed, pick_here
from tests.faults.crowd import NAME, crowd
from tests.faults.events import backends_of, kill_connections
from tests.faults.moments import AFTER_COMMIT, each_moment
from tests.faults.operations import MINERS
from tests.faults.snapshot import Snapshot
from tests.ledgers import fill_ledger
from tests.threads import close_database_pool

pytestmark = pytest.mark.django_db(transaction=True)

postgresql = pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no connection that could break")


@pytest.fixture
def one_thread(settings: Settings) -> Iterator[None]:
    """Leave the pool a single thread, so that the next pick has the connection that broke."""
    close_database_pool()
    settings.ALLOWANCE_THREADS = 1
    yield
    close_database_pool()


@postgresql
def test_routers_outlive_killed_connections() -> None:
    fill_ledger(*MINERS, *"defg", blocks=61, executors=1000)
    with crowd() as routers:
        for _ in range(4):
            routers.wait_for_picks()
            backends = backends_of(NAME)
            assert len(backends) > 3
            kill_connections(backends)
        routers.wait_for_picks()
        routers.stop()
        assert routers.errors
        assert_unharmed(routers.pick, told=routers.told, untold=routers.unrouted)


@postgresql
@pytest.mark.usefixtures("one_thread")
def test_a_connection_killed_at_any_moment_of_a_pick() -> None:
    """The pick raises and holds nothing, or, after its COMMIT, is done; the same thread picks again at once.

    What is read before a transaction is read again on another connection.
    """
    fill_ledger(*MINERS, executors=20)

    def pick(kill_at: int) -> tuple[list[str], Route | OperationalError]:
        moments: list[str] = []

        def happen(moment: str) -> None:
            if moment.startswith("SELECT set_config"):  # a new connection
                return
            moments.append(moment)
            if len(moments) == kill_at:
                kill_connections([backend_pid() or 0])

        with each_moment(happen):
            try:
                return moments, Route.of(routing().pick(job_request()))
            except OperationalError as error:
                return moments, error

    pick_in_thread = async_to_sync(in_database_thread(pick))
    pick_in_thread(0)  # the first one has more to read than the others
    unharmed, _ = pick_in_thread(0)
    assert len(unharmed) >= 3
    reads = next(number for number, moment in enumerate(unharmed) if not moment.lstrip("(").startswith("SELECT"))
    for k, moment in enumerate(unharmed, start=1):
        before = Snapshot()
        moments, outcome = pick_in_thread(k)
        assert moments == unharmed[:k] + (unharmed[k - 1 :] if k <= reads else [])
        if moment == AFTER_COMMIT or k <= reads:
            assert isinstance(outcome, Route)
            told = [Told(outcome, frozenset({"held"}))]
        else:
            assert isinstance(outcome, OperationalError)
            assert before.state() == before.rows
            told = []
        assert_unharmed(pick_here, told=told)
    assert unharmed[-1] == AFTER_COMMIT


def test_an_acknowledgement_that_is_lost() -> None:
    """Break the connection after the server has done the COMMIT, and before the client hears of it.

    This is the one thing that no caller can be told: the pick raises, as if nothing were held, and yet there is a
    reservation. Nobody spends it, so it expires by itself, and its blocks are free again. The caller picks anew.
    """
    fill_ledger("anna", executors=20)

    def lose(moment: str) -> None:
        if moment == AFTER_COMMIT:
            raise OperationalError("server closed the connection unexpectedly")

    request = job_request()
    with each_moment(lose), pytest.raises(OperationalError):
        routing().pick(request, now=timezone.now())
    reservation = Reservation.objects.get()
    assert (str(reservation.job_uuid), reservation.state) == (request.uuid, ReservationState.HELD)
    assert_unharmed(pick_here)
    again = routing().pick(job_request(), now=reservation.expires_at)
    assert again.allowance_blocks == reservation.blocks
    reservation.refresh_from_db()
    assert (reservation.state, reservation.ended_at) == (ReservationState.EXPIRED, reservation.expires_at)
    assert_unharmed(pick_here)
