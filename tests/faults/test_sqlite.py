"""SQLite: the disk is full, the file read-only, or locked by another program."""

from __future__ import annotations

import datetime as dt
import json
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event
from urllib.parse import quote

import pytest
from django.db import OperationalError, connection
from django.utils import timezone

from allowance import allowance
from allowance.types import LockTimeout
from routing.upkeep.journal import replay
from tests.factories import stored
from tests.faults.aftermath import Route, Told, assert_unharmed, pick_here
from tests.faults.moments import each_moment
from tests.faults.operations import BLOCKS, MINERS, WRITES, Scene, pick
from tests.faults.processes import Child
from tests.faults.snapshot import Rows
from tests.ledgers import FIRST_BLOCK, fill_ledger
from tests.programs import DEADLINE

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "sqlite", reason="faults of SQLite's file"),
]

EVIDENCE = {"record_receipt"}
"""It takes no lock; to it a locked file is an error like any other."""

HELD = frozenset({"held"})
ENOUGH_BLOCKS = 101
CROWD = [f"miner_{i}" for i in range(3000)]
"""More names than fit into what is left of a full file."""


@pytest.fixture(autouse=True)
def pragmas_end_with_the_test(transactional_db: None) -> Iterator[None]:
    """They hold for this connection only; the tables are emptied on another one."""
    yield
    connection.close()


def pragma(setting: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"PRAGMA {setting}")


def set_scene(blocks: int = BLOCKS) -> tuple[Scene, list[Told]]:
    """Fill the ledger and pick once."""
    fill_ledger(*MINERS, blocks=blocks, executors=200)
    route = pick(Scene())
    return Scene(route.reservation, timezone.now().isoformat()), [Told(route, HELD)]


def pick_on_this_connection() -> Route:
    return pick(Scene())


def database() -> Path:
    return Path(connection.settings_dict["NAME"])


def other_program() -> closing[sqlite3.Connection]:
    """Open the file as a program does that knows nothing of us."""
    return closing(sqlite3.connect(database(), isolation_level=None))


def record_crowd(scene: Scene) -> None:
    at = dt.datetime.fromisoformat(scene.at)
    allowance().record_block(number=FIRST_BLOCK + ENOUGH_BLOCKS, timestamp=at, stake_share=0.5, hotkeys=CROWD)


def replay_crowd(scene: Scene) -> None:
    """Replay two events in one transaction, of which the first has room."""
    block = {"number": FIRST_BLOCK + ENOUGH_BLOCKS, "timestamp": scene.at, "stake_share": 0.5, "hotkeys": CROWD}
    lines = [{"event": "collateral", "hotkey": "anna", "wei": "1"}, {"event": "block", **block}]
    list(replay(json.dumps(line).encode() for line in lines))


def write_until_full(write: Callable[[Scene], Route | None], scene: Scene) -> tuple[list[Told], Rows]:
    """Write until there is no room, and return the routes, and what was stored before the last try."""
    told: list[Told] = []
    while True:
        before = stored()
        try:
            route = write(scene)
        except OperationalError as error:
            if str(error) != "database or disk is full":
                raise
            return told, before
        assert route is not None, "there was room enough"
        told.append(Told(route, HELD))


@pytest.mark.parametrize("write", [pick, record_crowd, replay_crowd])
def test_a_full_database(write: Callable[[Scene], Route | None]) -> None:
    """Write until SQLite may not take another page: the last write stores nothing, and with room again all goes on."""
    scene, told = set_scene(ENOUGH_BLOCKS)
    with connection.cursor() as cursor:
        cursor.execute("VACUUM")
    pragma("max_page_count = 1")  # it takes the number of pages that there are
    more, before = write_until_full(write, scene)
    assert stored() == before
    pragma("max_page_count = 4294967294")
    assert_unharmed(pick_on_this_connection, told=told + more, untold=())


def test_a_full_disk() -> None:
    """Let the system refuse a router's writes: the pick raises; with room again, the same process picks."""
    _, told = set_scene(ENOUGH_BLOCKS)
    with Child() as router:
        pragma("wal_checkpoint(TRUNCATE)")
        router.ask("limit_files", bytes=database().stat().st_size)
        while "result" in (answer := router.ask("pick")):
            told.append(Told(Route(*answer["result"]), HELD))
        assert answer["error"] == "OperationalError"
        assert answer["text"] in {"disk I/O error", "database or disk is full"}
        router.ask("limit_files")
        assert_unharmed(router.pick, told=told, untold=())


def test_a_database_that_may_not_be_written() -> None:
    scene, told = set_scene()
    before = stored()
    pragma("query_only = ON")
    for operation in WRITES.values():
        with pytest.raises(OperationalError, match="attempt to write a readonly database"):
            operation(scene)
    assert stored() == before
    pragma("query_only = OFF")
    assert_unharmed(pick_on_this_connection, told=told, untold=())


def test_a_file_opened_for_reading_only() -> None:
    """A dry run needs no more than that; a pick says what is wrong."""
    _, told = set_scene()
    with Child(DATABASE_URL=f"sqlite:///{quote(f'file:{database()}?mode=ro')}") as reader:
        code, out, _ = reader.ask("dry_run")["result"]
        assert code == 0
        assert "Routed to" in out
        refused = {"error": "OperationalError", "text": "attempt to write a readonly database"}
        assert reader.ask("pick") == refused
    assert_unharmed(pick_here, told=told, untold=())


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
@pytest.mark.parametrize("operation", WRITES)
def test_a_file_locked_by_another_program(operation: str, begin: str) -> None:
    scene, told = set_scene()
    before = stored()
    pragma("busy_timeout = 20")
    with other_program() as other:
        other.execute(begin)
        with pytest.raises(OperationalError if operation in EVIDENCE else LockTimeout):
            WRITES[operation](scene)
        assert stored() == before
        other.execute("ROLLBACK")
        assert_unharmed(pick_on_this_connection, told=told, untold=())


def test_a_lock_let_go_in_time() -> None:
    _, told = set_scene()
    waits = Event()

    def notice(moment: str) -> None:
        if moment.startswith("BEGIN"):
            waits.set()

    def pick_patiently() -> Route:
        try:
            with each_moment(notice):
                return pick(Scene())
        finally:
            connection.close()

    with other_program() as other, ThreadPoolExecutor(1) as threads:
        other.execute("BEGIN IMMEDIATE")
        picked = threads.submit(pick_patiently)
        assert waits.wait(DEADLINE)
        other.execute("ROLLBACK")
        told.append(Told(picked.result(DEADLINE), HELD))
    assert_unharmed(pick_here, told=told, untold=())


def test_a_long_reader_is_in_nobodys_way() -> None:
    """Another program reads all the time: picks go on, and it goes on seeing what was there when it began."""
    _, told = set_scene()
    pragma("busy_timeout = 0")
    with other_program() as other:
        other.execute("BEGIN")
        count = "SELECT count(*) FROM allowance_reservation"
        assert other.execute(count).fetchone() == (1,)
        assert_unharmed(pick_on_this_connection, told=told, untold=())
        assert other.execute(count).fetchone() == (1,)
        other.execute("COMMIT")
        assert other.execute(count).fetchone() == (2,)
