"""A PgBouncer of a test's own, which grants a connection of the server for a transaction only."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from django.db import OperationalError, connection

from tests.programs import Program
from tests.threads import close_database_pool

MISSING = "No PgBouncer on the PATH: install one (on Debian: apt-get install pgbouncer)."

POOL = 2
"""Connections to the server, each of which has the next transaction in turn."""

SETTINGS = f"""
[pgbouncer]
pool_mode = transaction
default_pool_size = {POOL}
server_round_robin = 1
auth_type = any
listen_port = 6432
"""


def find() -> str | None:
    """Return the path of the system's PgBouncer, or None if there is none. Debian's is not on every user's PATH."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


@contextmanager
def bounced(program: str) -> Iterator[None]:
    """Connect this process to the test's database by way of a PgBouncer, for this context."""
    usual = dict(connection.settings_dict)
    with TemporaryDirectory(prefix="tests-") as folder, _running(program, folder) as bouncer:
        connection.close()
        close_database_pool()
        connection.settings_dict.update(HOST=folder, PORT="6432", OPTIONS={})  # as the README says of poolers
        try:
            bouncer.until(_answers)
            with ExitStack() as stack:
                for _ in range(POOL):  # each takes one of the server's connections while the others have theirs
                    stack.enter_context(_transaction())
            yield
        finally:
            close_database_pool()
            connection.close()
            connection.settings_dict.update(usual)


@contextmanager
def _running(program: str, folder: str) -> Iterator[Program]:
    at = connection.get_connection_params()  # the host may be among the OPTIONS
    names = [name for name in ("host", "port", "dbname", "user", "password") if at.get(name)]
    server = " ".join("{}='{}'".format(name, str(at[name]).replace("'", "''")) for name in names)
    config = Path(folder, "pgbouncer.ini")
    config.write_text(f"[databases]\n{at['dbname']} = {server}\n{SETTINGS}unix_socket_dir = {folder}\n")
    command = [program, "-q", str(config)]
    if os.getuid() == 0:  # it refuses to run as root
        user = _user(str(at.get("host", "")))
        shutil.chown(folder, user)
        command[1:1] = ["-u", user]
    with Program(*command) as bouncer:
        yield bouncer


def _user(host: str) -> str:
    """Return who may connect to the server: the owner of its socket, if it has one that is not root's."""
    owner = os.stat(host).st_uid if host.startswith("/") else 0
    return pwd.getpwuid(owner).pw_name if owner else "nobody"


def _answers() -> bool:
    try:
        connection.ensure_connection()
    except OperationalError:
        return False
    return True


@contextmanager
def _transaction() -> Iterator[None]:
    """Keep a connection of the server; it goes back to the pool when the transaction ends in good order."""
    with closing(connection.copy()) as other, other.cursor() as cursor:
        cursor.execute("BEGIN")
        yield
        cursor.execute("COMMIT")
