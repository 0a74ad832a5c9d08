"""Serve the demo's database, with a user who has all rights: `python -m project.serve`. This needs DEBUG."""

from __future__ import annotations

import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))  # at once: the imports below take a second

import fcntl
import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import NoReturn

import django
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import connections
from django.urls import reverse
from rich.console import Console
from rich.table import Table

from allowance.plumbing.console import wide_console
from allowance.plumbing.programs import answering
from project.follower import PATIENCE
from routing.pages import MENU

ROOT = Path(__file__).resolve().parent.parent
DATABASE = ROOT / "demo.sqlite3"
FOLLOWER_LOG = DATABASE.with_name(f"{DATABASE.name}.follower.log")
FOLLOWED = {
    "CHAIN_SOURCE": "journal",
    "JOURNAL_FILE": str(ROOT / "tests/conformance/cases/mockchain-100/journal.jsonl.gz"),
    "JOURNAL_SPEED": "1",
    "NETUID": "12",
    "VALIDATOR_HOTKEY": "validator",
}
"""The settings of the chain that the demo records and the follower beside the server continues."""

HOST = "127.0.0.1"
USER = "demo"
REFUSED = 2


def main() -> None:
    """Serve until Ctrl-C. The arguments are passed to uvicorn. If there is no database, run the demo first.

    The steps that can fail for external reasons come first, so that a failed start changes nothing.
    """
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    os.environ.update(FOLLOWED, DATABASE_URL=f"sqlite:///{DATABASE}")
    _refuse_outside_debug()
    listener = _listen(os.environ.get("PORT", "8000"))
    port = listener.getsockname()[1]
    if not DATABASE.exists() and (code := subprocess.call([sys.executable, "-m", "project.demo"], cwd=ROOT)):
        raise SystemExit(code)
    lock_database()
    django.setup()
    call_command("migrate", verbosity=0)
    console = wide_console(sys.stdout)
    console.print(f"Log in as {USER} with the password {_new_password()} (a new one each time):", soft_wrap=True)
    show_pages(console, port)
    console.print(
        f"Clients with a token open ws://{HOST}:{port}/ws/jobs/. The chain follower writes to {FOLLOWER_LOG.name}. "
        "Press Ctrl-C to stop the server.\n",
        soft_wrap=True,
    )
    sys.stdout.flush()
    connections.close_all()

    from uvicorn.main import main as uvicorn  # noqa: PLC0415 (slow, and needed only now)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # so that the server shuts down cleanly on Ctrl-C
    with following():
        options = {
            "--fd": str(listener.fileno()),
            "--lifespan": "off",
            "--ws-max-size": "1048576",
            "--ws-per-message-deflate": "false",  # messages are short, and to compress them takes time
        }
        uvicorn(["project.asgi:application", *chain.from_iterable(options.items()), *sys.argv[1:]])


@contextmanager
def following() -> Iterator[None]:
    """Run the chain follower until the context ends. It ends with this process, even if this process is killed."""
    with FOLLOWER_LOG.open("wb") as log:  # warnings and errors go to the terminal
        follower = subprocess.Popen(
            [sys.executable, "-m", "project.follower"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=log,
            start_new_session=True,  # Ctrl-C is for the server, which ends the follower
        )
    try:
        yield
    finally:
        follower.terminate()
        try:
            follower.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            follower.kill()
            follower.wait()


def show_pages(console: Console, port: int = 8000) -> None:
    """Print the addresses of the pages for operators."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for page in MENU:
        table.add_row(f"  {page.title}", f"http://{HOST}:{port}{reverse(f'admin:{page.name}')}")
    console.print(table)


def lock_database() -> None:
    """Lock the demo's database until this process ends. Exit if another process makes or serves the database."""
    lock = os.open(f"{DATABASE}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _refuse("Another process is serving or making the demo. Stop that process first (Ctrl-C in its terminal).")


def remove(database: Path) -> None:
    """Remove a SQLite database, and its log files, which a new database of this name must not read."""
    for suffix in ("", "-journal", "-wal", "-shm", ".follower.lock"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)


def _listen(port: str) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit this option
    try:
        listener.bind((HOST, int(port)))
        listener.listen()
    except (OSError, ValueError, OverflowError) as error:
        _refuse(f"Can't listen at {HOST}:{port}: {error}. Choose another port: PORT=8001 make serve.")
    return listener


def _refuse_outside_debug() -> None:
    try:
        if settings.DEBUG:
            return
        why = "This prints the password of a user with all rights, so it works only with DEBUG, on your own machine."
    except ImproperlyConfigured as error:
        why = str(error)
    _refuse(f"{why}\nTo serve the demo, run make serve, or set DEBUG=1.")


def _refuse(why: str) -> NoReturn:
    sys.stderr.write(f"{why}\nNothing was served or changed.\n")
    raise SystemExit(REFUSED)


def _new_password() -> str:
    password = secrets.token_urlsafe(9)
    user, _ = get_user_model().objects.get_or_create(username=USER)
    user.is_staff = user.is_superuser = user.is_active = True
    user.set_password(password)
    user.save()
    return password


if __name__ == "__main__":
    with answering():
        main()
