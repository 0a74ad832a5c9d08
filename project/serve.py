"""Serve the demo's database, with a user who sees all its pages: `python -m project.serve`. Never outside DEBUG."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import django
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.urls import reverse
from rich.console import Console
from rich.table import Table

from allowance.console import wide_console
from routing.pages import MENU

ROOT = Path(__file__).resolve().parent.parent
DATABASE = ROOT / "demo.sqlite3"
HOST, PORT = "127.0.0.1", os.environ.get("PORT", "8000")
USER = "demo"
REFUSED = 2


def main() -> NoReturn:
    """Serve until Ctrl-C; the arguments go on to uvicorn. Without a demo's database the demo is run first."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    os.environ["DATABASE_URL"] = f"sqlite:///{DATABASE}"
    _refuse_outside_debug()
    if not DATABASE.exists() and (code := subprocess.call([sys.executable, "-m", "project.demo"], cwd=ROOT)):
        raise SystemExit(code)
    django.setup()
    call_command("migrate", verbosity=0)
    console = wide_console(sys.stdout)
    console.print(f"Log in as {USER} with the password {_new_password()} (another one each time):", soft_wrap=True)
    show_pages(console)
    console.print(f"Sockets, with a token: ws://{HOST}:{PORT}/ws/jobs/. Ctrl-C ends it.\n", soft_wrap=True)
    sys.stdout.flush()
    uvicorn = [sys.executable, "-m", "uvicorn", "project.asgi:application", "--host", HOST, "--port", PORT]
    os.execv(  # noqa: S606 (signals go straight to the server)
        sys.executable, [*uvicorn, "--lifespan", "off", "--ws-max-size", "1048576", *sys.argv[1:]]
    )


def show_pages(console: Console) -> None:
    """Print where the pages for operators are once they are served."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for page in MENU:
        table.add_row(f"  {page.title}", f"http://{HOST}:{PORT}{reverse(f'admin:{page.name}')}")
    console.print(table)


def _refuse_outside_debug() -> None:
    try:
        if settings.DEBUG:
            return
        why = "A user with all rights, whose password is printed, is for your own machine only."
    except ImproperlyConfigured as error:
        why = str(error)
    sys.stderr.write(f"{why}\nNothing is served or changed. To serve the demo: make serve (or DEBUG=1).\n")
    raise SystemExit(REFUSED)


def _new_password() -> str:
    password = secrets.token_urlsafe(9)
    user, _ = get_user_model().objects.get_or_create(username=USER)
    user.is_staff = user.is_superuser = user.is_active = True
    user.set_password(password)
    user.save()
    return password


if __name__ == "__main__":
    main()
