"""One clock decides for all routers, whatever the clocks of their hosts say."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.db import connection
from django.utils import timezone

from allowance import allowance, clock
from allowance.models import Reservation
from receipts.schemas import JobStarted
from routing import routing
from routing.types import AllMinersBusy
from tests.clock import MINUTE, SECOND
from tests.factories import job_request
from tests.integration.test_locks import Holder
from tests.ledgers import fill_ledger
from tests.rows import hold, receive

pytestmark = [
    pytest.mark.usefixtures("ledger_clean_at_the_end"),
    pytest.mark.skipif(connection.vendor == "sqlite", reason="the processes of an SQLite file share a host"),
]


@contextmanager
def host_ahead(by: dt.timedelta) -> Iterator[pytest.MonkeyPatch]:
    """Let the clock of this host be ahead, or behind, of the server's."""
    real = timezone.now
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timezone, "now", lambda: real() + by)
        yield patch


def test_the_time_is_the_server_s() -> None:
    with connection.cursor() as cursor, host_ahead(2 * MINUTE):
        times = []
        for _ in range(2):
            cursor.execute("SELECT clock_timestamp()")
            times += [cursor.fetchone()[0], clock.now()]
    assert times == sorted(times)
    read = times[0] - SECOND
    assert clock.now(by_server=read) == read


def test_a_router_whose_host_is_ahead_takes_no_live_reservation_for_expired() -> None:
    fill_ledger("anna", executors=1)
    routing().pick(job_request(12))
    with host_ahead(125 * SECOND), pytest.raises(AllMinersBusy):
        routing().pick(job_request(12))


def test_control_by_the_clock_of_its_host_it_does() -> None:
    fill_ledger("anna", executors=1)
    first = routing().pick(job_request(12))
    with host_ahead(125 * SECOND) as patch:
        patch.setattr(clock, "now", lambda **_: timezone.now())
        assert routing().pick(job_request(12)).miner == first.miner


def test_a_router_whose_host_is_behind_sees_a_job_that_has_just_started() -> None:
    fill_ledger("anna", executors=1)
    request = job_request(12)
    route = routing().pick(request)
    receive(JobStarted, request.uuid)
    allowance().spend_allowance(route.allowance_reservation_id or 0)
    with host_ahead(-2 * MINUTE), pytest.raises(AllMinersBusy):
        routing().pick(job_request(12))


def test_a_spend_that_waited_for_a_lock_is_dated_after_the_wait() -> None:
    """The time is read after the wait: a statement's or a transaction's own dates from before it."""
    fill_ledger("anna")
    held, _ = hold(seconds=12)
    reached: list[dt.datetime] = []

    def note_the_time() -> None:
        reached.append(clock.now())

    with Holder("anna", once_waited_for=note_the_time):
        allowance().spend_allowance(held)
    ended_at = Reservation.objects.get(pk=held).ended_at
    assert ended_at is not None
    assert ended_at > reached[0]


def test_a_pick_that_waited_for_a_lock_is_dated_after_the_wait() -> None:
    fill_ledger("anna")
    reached: list[dt.datetime] = []
    with Holder("anna", once_waited_for=lambda: reached.append(clock.now())):
        route = routing().pick(job_request(12))
    assert Reservation.objects.get(pk=route.allowance_reservation_id or 0).created_at > reached[0]
