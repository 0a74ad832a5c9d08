"""`make serve`, from a fresh clone: the demo's database, and a user for its pages whom nobody else ever gets."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, OpenerDirector, build_opener

import pytest
from django.urls import reverse

from routing.pages import MENU
from tests.programs import DEADLINE
from tests.servers.server import GRACE, LISTENS, ROOT, TROUBLE

PASSWORD = re.compile(r"Log in as demo with the password (\S+)")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with what serving reads beside itself, so that this checkout's own demo stays as it is."""
    shutil.copytree(ROOT / "project", tmp_path / "project", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    return tmp_path


def environment(**more: str) -> dict[str, str]:
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "PYTHONPATH": str(ROOT),
        "LOG_LEVEL": "INFO",
        "PORT": "0",
        **more,
    }


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
        deadline = time.monotonic() + DEADLINE
        while not (found := LISTENS.search(self.said)):
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.05)
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
            assert f"http://127.0.0.1:0{path}" in served.said  # the port that was asked for
            with browser.open(address + path) as response:
                assert response.url == address + path  # not sent to log in
        assert "Replayed 101 blocks" in served.said
        assert served.interrupt() == 0
        assert TROUBLE.findall(served.said) == []
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
    ended = subprocess.run(
        [sys.executable, "-m", "project.serve"],
        cwd=clone,
        env=environment(DEBUG="0", SECRET_KEY=key),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "DEBUG=1" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert {path for path in clone.iterdir() if path.name != "project"} == before
    assert database is None or demo.read_bytes() == database
