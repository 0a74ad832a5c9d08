"""What must hold after every fault, whatever it was."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple
from uuid import UUID

from django.db import connection, transaction
from django.utils import timezone

from allowance.models import Account, ChainLock, Reservation
from allowance.oversight.audit import check_ledger
from routing import routing
from routing.decision.book import DryBook
from routing.decision.pipeline import decide
from routing.types import JobRoute
from tests.factories import job_request

_BLOCKS_OF = {
    "postgresql": "jsonb_array_elements(r.blocks) AS block",
    "sqlite": "json_each(r.blocks) AS block",
}
_GIVEN_TWICE = """
    SELECT r.account_id, block.value, COUNT(*)
    FROM allowance_reservation r, {blocks}
    WHERE r.state IN ('held', 'spent') GROUP BY 1, 2 HAVING COUNT(*) > 1
"""


class Route(NamedTuple):
    """What a caller of the router keeps of a route."""

    miner: str
    blocks: list[int]
    reservation: int

    @classmethod
    def of(cls, route: JobRoute) -> Route:
        return cls(route.miner.hotkey_ss58, route.allowance_blocks or [], route.allowance_reservation_id or 0)


class Told(NamedTuple):
    """A route that a router's caller was told, and the states in which its reservation may be by now."""

    route: Route
    states: frozenset[str]


def assert_unharmed(
    pick: Callable[[], Route], *, told: Iterable[Told] = (), untold: Collection[UUID] | None = None
) -> None:
    """Assert that the ledger is clean, all that was `told` durable, nothing half-made, and that `pick` picks at once.

    `untold` are the jobs whose callers were told nothing: each may have a reservation or not, and no other job has one.
    Left out, all may.
    """
    assert list(check_ledger()) == []
    assert given_twice() == []
    rows = {row.pk: row for row in Reservation.objects.select_related("account")}
    for route, states in told:
        assert route.reservation in rows, f"{route} was told, and is gone"
        row = rows.pop(route.reservation)
        assert (row.account.miner_id, row.blocks) == (route.miner, route.blocks)
        assert row.state in states
    assert untold is None or {row.job_uuid for row in rows.values()} <= set(untold)
    assert_nothing_locked()
    expected = decide(job_request(), DryBook(), now=timezone.now()).route
    assert expected is not None
    route = pick()
    assert (route.miner, route.blocks) == (expected.miner.hotkey_ss58, expected.allowance_blocks)
    row = Reservation.objects.select_related("account").get(pk=route.reservation)
    assert (row.account.miner_id, row.blocks, row.state) == (route.miner, route.blocks, "held")
    assert list(check_ledger()) == []


def given_twice() -> list[tuple[object, ...]]:
    """Return (account, block, how often) of blocks that several live reservations have, by plain SQL."""
    with connection.cursor() as cursor:
        cursor.execute(_GIVEN_TWICE.format(blocks=_BLOCKS_OF[connection.vendor]))
        rows: list[tuple[object, ...]] = cursor.fetchall()
    return rows


def assert_nothing_locked() -> None:
    """Take all locks there are, without waiting; on SQLite beginning takes the only one."""
    with transaction.atomic():
        list(ChainLock.objects.select_for_update(nowait=True))
        list(Account.objects.select_for_update(nowait=True))


def pick_here() -> Route:
    """Pick in this process, the way a consumer does: from a coroutine, on a thread of the pool."""
    return Route.of(asyncio.run(routing().pick_miner_for_job_request(job_request())))
