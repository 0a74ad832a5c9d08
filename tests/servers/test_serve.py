"""`make demo` and `make serve`, from a fresh clone: the demo's database, and a user with a new password each time."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, OpenerDirector, build_opener

import pytest
from django.urls import reverse

from routing.pages import MENU
from tests.programs import DEADLINE
from tests.servers.server import GRACE, ROOT, TROUBLE

LISTENS = re.compile(r"Uvicorn running on socket \('127\.0\.0\.1', (\d+)\)")
PASSWORD = re.compile(r"Log in as demo with the password (\S+)")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    return clone_to(tmp_path)


def clone_to(folder: Path) -> Path:
    """Make a folder with what serving reads beside itself, so that this checkout's own demo stays as it is."""
    shutil.copytree(ROOT / "project", folder / "project", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests").symlink_to(ROOT / "tests")
    return folder


def environment(**more: str) -> dict[str, str]:
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "PYTHONPATH": str(ROOT),
        "LOG_LEVEL": "INFO",
        "PORT": "0",
        **more,
    }


def wait_until(there: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def run(clone: Path, module: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a module of the clone to its end."""
    return subprocess.run(
        [sys.executable, "-m", module],
        cwd=clone,
        env=environment(**{"DEBUG": "1", **more}),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def query(database: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(sql).fetchall()


def files(clone: Path) -> set[str]:
    """Return what there is in the clone but for its code and what a test wrote."""
    return {path.name for path in clone.glob("demo*")}


class Serving:
    """`python -m project.serve` in a clone."""

    def __init__(self, clone: Path, output: Path) -> None:
        self.output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "project.serve", "--no-access-log"],
                cwd=clone,
                env=environment(DEBUG="1"),
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def await_start(self) -> str:
        """Return where it is to be reached, once it is."""
        wait_until(lambda: LISTENS.search(self.said) or self.process.poll() is not None)
        found = LISTENS.search(self.said)
        assert found, self.said
        return f"http://127.0.0.1:{found[1]}"

    @property
    def said(self) -> str:
        return self.output.read_text()

    def interrupt(self) -> int:
        """Press Ctrl-C, and return the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(GRACE)


@contextmanager
def serving(clone: Path, output: str) -> Iterator[tuple[Serving, str]]:
    served = Serving(clone, clone / output)
    try:
        yield served, served.await_start()
    finally:
        served.process.kill()
        served.process.wait()


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
    with serving(clone, "first") as (served, address):
        first = password(served.said)
        browser, is_in = log_in(address, first)
        assert is_in
        for page in MENU:
            path = reverse(f"admin:{page.name}")
            assert address + path in served.said
            with browser.open(address + path) as response:
                assert response.url == address + path  # not sent to log in
        assert "Replayed 101 blocks" in served.said
        assert served.interrupt() == 0
        assert TROUBLE.findall(served.said) == []
    assert files(clone) == {"demo.sqlite3", "demo.sqlite3.lock"}
    with serving(clone, "second") as (served, address):
        assert "Replayed" not in served.said
        second = password(served.said)
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
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "DEBUG=1" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert {path for path in clone.iterdir() if path.name != "project"} == before
    assert database is None or demo.read_bytes() == database


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of one run of the demo, for tests that take a copy."""
    clone = clone_to(tmp_path_factory.mktemp("clone"))
    ended = run(clone, "project.demo")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "\x1b" not in ended.stdout
    return clone / "demo.sqlite3"


def test_jobs_of_the_demo_s_past_are_paid_with_blocks_that_add_up_to_their_seconds(demo: Path) -> None:
    """A block is 12 s of each executor at a stake share of a tenth; one more block would be too many."""
    found = query(
        demo,
        "SELECT d.seconds, json_array_length(r.blocks), a.executors FROM allowance_reservation r"
        " JOIN routing_decisionrecord d ON d.reservation_id = r.id JOIN allowance_account a ON a.id = r.account_id"
        " WHERE json_extract(r.blocks, '$[#-1]') < 11000",
    )
    assert len(found) > 1000
    for seconds, blocks, executors in found:
        assert isinstance(seconds, float)
        assert isinstance(blocks, int)
        assert isinstance(executors, int)
        assert 1.2 * executors * (blocks - 1) < seconds <= 1.2 * executors * blocks


def test_one_server_at_a_time_and_what_is_refused_changes_nothing(clone: Path, demo: Path) -> None:
    shutil.copy(demo, clone)
    with serving(clone, "first") as (served, address):
        word = password(served.said)
        before = (clone / "demo.sqlite3").stat().st_ino
        port = address.rpartition(":")[2]
        for module, more, why in (
            ("project.serve", {"PORT": port}, "Address already in use"),
            ("project.serve", {"PORT": "0"}, "is being served"),
            ("project.demo", {}, "is being served"),
        ):
            ended = run(clone, module, **more)
            assert (ended.returncode, ended.stdout) == (2, "")
            assert why in ended.stderr
            assert "Nothing is served or changed." in ended.stderr
        assert log_in(address, word)[1]
        assert (clone / "demo.sqlite3").stat().st_ino == before
        assert served.interrupt() == 0


@pytest.mark.parametrize("port", ["many", "99999", "-1"])
def test_what_is_no_port_is_refused_before_anything_is_made(clone: Path, port: str) -> None:
    ended = run(clone, "project.serve", PORT=port)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert f"127.0.0.1:{port}" in ended.stderr
    assert files(clone) == set()


def test_a_port_that_is_taken_is_refused_before_anything_is_made(clone: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = run(clone, "project.serve", PORT=str(taken.getsockname()[1]))
    assert ended.returncode == 2
    assert files(clone) == set()


def test_blocks_and_manifests_go_on_while_the_demo_is_served(clone: Path, demo: Path) -> None:
    shutil.copy(demo, clone)
    database = clone / "demo.sqlite3"
    newest, synced = "SELECT max(number) FROM allowance_block", "SELECT max(block) FROM allowance_manifestsync"
    ((before,),) = query(database, newest)
    assert isinstance(before, int)
    with serving(clone, "output") as (served, _):
        wait_until(lambda: query(database, newest) == [(before + 2,)])
        assert query(database, synced) == [(before + 1,)]
        assert served.interrupt() == 0
        assert TROUBLE.findall(served.said) == []


@pytest.mark.parametrize("there", [False, True])
def test_a_demo_that_is_interrupted_leaves_the_database_of_before(there: bool, clone: Path, demo: Path) -> None:
    if there:
        shutil.copy(demo, clone)
    before = files(clone)
    with (clone / "output").open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "project.demo"],
            cwd=clone,
            env=environment(DEBUG="1"),
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    output = clone / "output"
    try:
        wait_until(lambda: "Replayed" in output.read_text())
        assert (clone / "demo.sqlite3.unfinished").exists()
        assert (clone / "demo.sqlite3").exists() == there
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 130
    finally:
        process.kill()
        process.wait()
    assert "Try next" not in output.read_text()
    assert "Traceback" not in output.read_text()
    assert files(clone) - {"demo.sqlite3.lock"} == before
