"""The simulation: it agrees with the real code, it has been everywhere it should, and it can be had again."""

from __future__ import annotations

from contextlib import closing

import pytest
from django.db import connection

from allowance.models import Block
from tests.programs import wait_until
from tests.properties.coverage import Tally, crash, missing
from tests.properties.history import POINTS, STATEMENT, WRITERS, Step, dump, generate, load
from tests.properties.router import Router
from tests.properties.scene import crashes, most_statements, setting
from tests.properties.schedule import Schedule
from tests.properties.simulation import run
from tests.properties.world import simulate
from tests.threads import side_by_side

pytestmark = pytest.mark.filterwarnings("ignore:.* was deleted while still open:ResourceWarning")  # by a crash

SEEDS = (4, 5, 7, 11, 23, 27)
"""Between them they have been everywhere."""


def test_every_answer_and_every_balance_agree_with_the_naive_model(routers: list[Router]) -> None:
    tally = Tally()
    for seed in SEEDS:
        run(seed, routers, tally)
    assert missing(tally, connection.vendor) == []


def test_a_seed_is_one_history(routers: list[Router]) -> None:
    steps = generate(7, 120)
    assert steps == generate(7, 120) == load(dump(steps).splitlines())
    traces = [simulate(steps, routers, Tally()) for _ in range(2)]
    assert traces[0] == traces[1]
    assert simulate(generate(8, 120), routers, Tally()) != traces[0]


def test_what_was_told_is_the_same_history(routers: list[Router]) -> None:
    told: list[Step] = []
    trace = simulate(generate(7, 120), routers, Tally(), told)
    assert simulate(load(dump(told).splitlines()), routers, Tally()) == trace


@pytest.mark.parametrize("kind", WRITERS)
def test_a_crash_at_any_point_leaves_all_or_nothing(routers: list[Router], kind: str) -> None:
    tally = Tally()
    simulate([*setting(), *crashes(kind)], routers, tally)
    assert all(tally[crash(kind, point)] for point in POINTS)
    assert tally[crash(kind, STATEMENT)] < most_statements(kind)  # so the last goes passed all their points


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has no process that locks a table on its own")
def test_a_router_that_waits_for_the_server_itself_is_not_stuck(routers: list[Router]) -> None:
    """As for autovacuum, which locks a table to shorten it."""
    router = routers[0]

    def release() -> None:
        wait_until(lambda: waits(router.pid))
        server.rollback()

    with closing(connection.copy()) as server:
        server.inc_thread_sharing()
        server.set_autocommit(False)
        server.cursor().execute("LOCK TABLE allowance_block")
        router.begin(Block.objects.count, stepwise=True)
        schedule = Schedule([router], 0, before=lambda _: None, after=lambda _: None)
        assert side_by_side(schedule.run, release) == [None, None]
    assert router.answer == 0


def waits(pid: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s", [pid])
        return bool(cursor.fetchone() == ("Lock",))
