"""`make demo` and `make serve`, from a fresh clone: the demo's database, and a user with a new password each time."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import signal
import socket
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.cookiejar import CookieJar
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, OpenerDirector, build_opener

import pytest
from django.urls import reverse

from allowance.follow.journal import Journal
from project.serve import FOLLOWED
from routing.pages import MENU
from tests.programs import ROOT, Finished, Program, wait_until
from tests.servers.server import TROUBLE

LISTENS = r"Uvicorn running on socket \('127\.0\.0\.1', (\d+)\)"
PASSWORD = re.compile(r"Log in as demo with the password (\S+)")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    return clone_to(tmp_path)


def clone_to(folder: Path) -> Path:
    """Make a folder with what serving reads beside itself, so that this checkout's own demo stays as it is."""
    shutil.copytree(ROOT / "project", folder / "project", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests").symlink_to(ROOT / "tests")
    return folder


def start(clone: Path, module: str, *arguments: str, **more: str) -> Program:
    """Start a module of the clone."""
    usual = {"PYTHONPATH": ROOT, "LOG_LEVEL": "INFO", "PORT": 0, "DEBUG": 1}
    environment = {"DJANGO_SETTINGS_MODULE": "project.settings", **usual, **more}
    return Program(sys.executable, "-m", module, *arguments, environment=environment, cwd=clone)


def run(clone: Path, module: str, **more: str) -> Finished:
    """Run a module of the clone to its end."""
    return start(clone, module, **more).finish()


def query(database: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(sql).fetchall()


CHAIN = "SELECT number, hash, parent_hash, timestamp FROM allowance_block ORDER BY number"


def follows(blocks: list[tuple[object, ...]]) -> bool:
    """Tell whether each block is the child of the one before it."""
    return all((b[0], b[2]) == (int(str(a[0])) + 1, a[1]) for a, b in pairwise(blocks))


def genesis() -> str:
    """Return the hash that identifies the demo's chain."""
    return Journal(FOLLOWED["JOURNAL_FILE"], hotkey=FOLLOWED["VALIDATOR_HOTKEY"]).genesis_hash


def is_free(lock: Path) -> bool:
    """Tell whether no process holds the lock of a file."""
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def files(clone: Path) -> set[str]:
    """Return what there is in the clone but for its code and what a test wrote."""
    return {path.name for path in clone.glob("demo*")}


@contextmanager
def serving(clone: Path) -> Iterator[tuple[Program, str]]:
    """Serve the clone's demo, and give where it is to be reached."""
    with start(clone, "project.serve", "--no-access-log") as served:
        yield served, f"http://127.0.0.1:{served.await_log(LISTENS)[1]}"


def password(said: str) -> str:
    (found,) = PASSWORD.findall(said)
    return str(found)


def log_in(address: str, word: str) -> tuple[OpenerDirector, bool]:
    """Return a browser that tried to log in as demo, and whether it is in."""
    browser = build_opener(HTTPCookieProcessor(CookieJar()))
    form = browser.open(f"{address}/admin/login/").read().decode()
    (token,) = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', form)
    said = {"username": "demo", "password": word, "csrfmiddlewaretoken": token, "next": "/admin/"}
    with browser.open(f"{address}/admin/login/", urlencode(said).encode()) as response:
        return browser, response.url == f"{address}/admin/"


def test_the_demo_is_made_once_and_its_pages_are_served_to_a_user_with_a_new_password_each_time(clone: Path) -> None:
    with serving(clone) as (served, address):
        first = password(served.log)
        browser, is_in = log_in(address, first)
        assert is_in
        for page in MENU:
            path = reverse(f"admin:{page.name}")
            assert address + path in served.log
            with browser.open(address + path) as response:
                assert response.url == address + path  # not sent to log in
        assert "Recorded 1023 blocks" in served.log
        assert served.stop(signal.SIGINT) == 0
        assert TROUBLE.findall(served.log) == []
    assert files(clone) == {f"demo.sqlite3{end}" for end in ("", ".lock", ".follower.lock", ".follower.log")}
    with serving(clone) as (served, address):
        assert "Recorded" not in served.log
        second = password(served.log)
        assert second != first
        assert [log_in(address, word)[1] for word in (first, second)] == [False, True]


@pytest.mark.parametrize("key", ["", "x" * 50])
@pytest.mark.parametrize("database", [None, b"whatever was there before"])
def test_outside_debug_nothing_is_served_or_touched(key: str, database: bytes | None, clone: Path) -> None:
    demo = clone / "demo.sqlite3"
    if database is not None:
        demo.write_bytes(database)
    before = {path for path in clone.iterdir() if path.name != "project"}
    ended = run(clone, "project.serve", DEBUG="0", SECRET_KEY=key)
    assert (ended.code, ended.out) == (2, "")
    assert "DEBUG=1" in ended.err
    assert "Traceback" not in ended.err
    assert {path for path in clone.iterdir() if path.name != "project"} == before
    assert database is None or demo.read_bytes() == database


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of one run of the demo, for tests that take a copy."""
    clone = clone_to(tmp_path_factory.mktemp("clone"))
    ended = run(clone, "project.demo")
    assert (ended.code, ended.err) == (0, "")
    assert "\x1b" not in ended.out
    return clone / "demo.sqlite3"


def test_jobs_of_the_demo_s_past_are_paid_with_blocks_that_add_up_to_their_seconds(demo: Path) -> None:
    """One block fewer would be too few. Before the recorded blocks, a block is 12 s at a stake share of a tenth."""
    recorded = {number: int(str(ns)) for number, ns in query(demo, "SELECT number, ns FROM allowance_block") if ns}
    found = query(
        demo,
        "SELECT d.seconds, r.blocks, a.executors FROM allowance_reservation r"
        " JOIN routing_decisionrecord d ON d.reservation_id = r.id JOIN allowance_account a ON a.id = r.account_id"
        " WHERE r.id <= 1500 AND json_array_length(a.counts) = 1",  # the executors of the miner never changed
    )
    assert len(found) > 500
    for seconds, blocks, executors in found:
        assert isinstance(seconds, float)
        assert isinstance(executors, int)
        paid = [executors * recorded.get(number, 1_200_000_000) for number in json.loads(str(blocks))]
        assert sum(paid[:-1]) < seconds * 10**9 <= sum(paid)


def test_the_demo_s_chain_has_no_gap_and_each_block_its_parent(demo: Path) -> None:
    assert follows(query(demo, CHAIN))
    assert query(demo, "SELECT genesis, netuid, hotkey FROM allowance_follower") == [(genesis(), 12, "validator")]


def test_one_server_at_a_time_and_what_is_refused_changes_nothing(clone: Path, demo: Path) -> None:
    shutil.copy(demo, clone)
    with serving(clone) as (served, address):
        word = password(served.log)
        before = (clone / "demo.sqlite3").stat().st_ino
        port = address.rpartition(":")[2]
        for module, more, why in (
            ("project.serve", {"PORT": port}, "Address already in use"),
            ("project.serve", {"PORT": "0"}, "is serving or making the demo"),
            ("project.demo", {}, "is serving or making the demo"),
        ):
            ended = run(clone, module, **more)
            assert (ended.code, ended.out) == (2, "")
            assert why in ended.err
            assert "Nothing was served or changed." in ended.err
        assert log_in(address, word)[1]
        assert (clone / "demo.sqlite3").stat().st_ino == before
        assert served.stop(signal.SIGINT) == 0


@pytest.mark.parametrize("port", ["many", "99999", "-1"])
def test_what_is_no_port_is_refused_before_anything_is_made(clone: Path, port: str) -> None:
    ended = run(clone, "project.serve", PORT=port)
    assert (ended.code, ended.out) == (2, "")
    assert f"127.0.0.1:{port}" in ended.err
    assert files(clone) == set()


def test_a_port_that_is_taken_is_refused_before_anything_is_made(clone: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = run(clone, "project.serve", PORT=str(taken.getsockname()[1]))
    assert ended.code == 2
    assert files(clone) == set()


def test_the_same_chain_goes_on_without_a_gap_while_the_demo_is_served(clone: Path, demo: Path) -> None:
    shutil.copy(demo, clone)
    database = clone / "demo.sqlite3"
    before = query(database, CHAIN)
    with serving(clone) as (served, _):
        served.until(lambda: len(query(database, CHAIN)) >= len(before) + 2)
        served.until(lambda: follows(query(database, CHAIN)))
        assert query(database, CHAIN)[: len(before)] == before
        assert query(database, "SELECT genesis FROM allowance_follower") == [(genesis(),)]
        assert served.stop(signal.SIGINT) == 0
        assert TROUBLE.findall(served.log) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_follower_ends_with_the_server_however_that_ends(number: signal.Signals, clone: Path, demo: Path) -> None:
    shutil.copy(demo, clone)
    lock = clone / "demo.sqlite3.follower.lock"
    with serving(clone) as (served, _):
        served.until(lambda: lock.exists() and not is_free(lock))
        served.stop(number)
        wait_until(lambda: is_free(lock))


@pytest.mark.parametrize("there", [False, True])
def test_a_demo_that_is_interrupted_leaves_the_database_of_before(there: bool, clone: Path, demo: Path) -> None:
    if there:
        shutil.copy(demo, clone)
    before = files(clone)
    with start(clone, "project.demo") as program:
        program.await_log("Recorded")
        assert (clone / "demo.sqlite3.unfinished").exists()
        assert (clone / "demo.sqlite3").exists() == there
        assert program.stop(signal.SIGINT) == 130
        printed = program.log
    assert "Try next" not in printed
    assert "Traceback" not in printed
    assert files(clone) - {"demo.sqlite3.lock"} == before
