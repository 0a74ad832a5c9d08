"""One follower writes: a second one stands by, and takes over when the first one ends.

Two things ensure this. A lock shows who leads: an advisory lock of PostgreSQL, or a lock on a file beside a SQLite
database. Its holder draws a new `term`, and each transaction of a follower compares its term under the chain lock. So a
process that has lost its lock without noticing writes nothing.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from django import db
from django.db.backends.base.base import BaseDatabaseWrapper

from allowance import clock
from allowance.follow.sources import Head, OtherChain
from allowance.locks import ledger_transaction, lock_chain
from allowance.models import Block, Follower, new_version
from allowance.plumbing.database import database
from allowance.plumbing.errors import RefusedError

ADVISORY_LOCK = 0x6D696E6572726F75
"""The number of the advisory lock. It is valid in one database, so other databases of the server can have followers."""


NO_GENESIS = ""
"""The genesis of a source that does not know it. Then only the hashes of the blocks show another chain."""


class LeadLost(RefusedError):
    """Another process leads, or the lock is gone. Nothing was written. The follower stands by again."""

    def __init__(self) -> None:
        super().__init__("This follower has lost the lead. Nothing was written. It stands by until it can lead again.")


class Lead:
    """The lead among the followers of a ledger. `genesis`, `netuid` and `hotkey` identify what is followed."""

    def __init__(self, *, genesis: str, netuid: int, hotkey: str, source: str) -> None:
        self.genesis, self.netuid, self.hotkey, self.source = genesis, netuid, hotkey, source
        self.term = new_version()
        self._lock: _AdvisoryLock | _FileLock = (
            _AdvisoryLock() if database().vendor == "postgresql" else _FileLock(database().settings_dict["NAME"])
        )

    def take(self) -> bool:
        """Take the lead. Return False if another process has it.

        Raises OtherChain if the recorded blocks are of another chain, subnet or validator.
        """
        if not self._lock.take():
            return False
        try:
            self._begin_term()
        except BaseException:
            self._lock.release()
            raise
        return True

    def refuse_other_chain(self) -> None:
        """Raise OtherChain if the recorded blocks are of another chain, subnet or validator."""
        known = Follower.objects.filter(pk=1).first()
        if known is None or not Block.objects.exists():
            return
        self.genesis = self.genesis or known.genesis
        for name, what in NAMES.items():
            recorded, configured = getattr(known, name), getattr(self, name)
            if recorded != configured and not (name == "genesis" and NO_GENESIS in {recorded, configured}):
                raise OtherChain(what, str(recorded), str(configured))

    def _begin_term(self) -> None:
        now, self.term = clock.now(), new_version()
        with ledger_transaction():
            lock_chain()
            self.refuse_other_chain()
            values = {
                "genesis": self.genesis,
                "netuid": self.netuid,
                "hotkey": self.hotkey,
                "source": self.source,
                "term": self.term,
                "leader": f"{socket.gethostname()}, process {os.getpid()}",
                "leads_since": now,
                "seen_at": now,
            }
            Follower.objects.update_or_create(pk=1, defaults=values)

    def keep(self, head: Head | None, source: str = "") -> None:
        """Store a heartbeat, the name of the source, and the newest finalized block.

        Raises LeadLost if another process leads.
        """
        self._lock.check()
        now = clock.now()
        mine = Follower.objects.filter(pk=1, term=self.term)
        if not mine.update(seen_at=now, source=source or self.source):
            raise LeadLost
        if head is not None:
            mine.exclude(head=head.number).update(head=head.number, head_at=now)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Run a transaction of the follower that holds the chain lock. Raises LeadLost if another process leads."""
        with ledger_transaction():
            lock_chain()
            if not Follower.objects.filter(pk=1, term=self.term).exists():
                raise LeadLost
            yield

    def release(self) -> None:
        """Give up the lead, so that a follower that stands by can take over at once."""
        self._lock.release()


NAMES = {"genesis": "chain", "netuid": "subnet", "hotkey": "validator"}
"""What the columns of a Follower identify, for people."""


class _AdvisoryLock:
    """A lock of a transaction that stays open, on a connection of its own.

    A lock of a session would not work behind a pooler such as PgBouncer, which gives sessions to others. The open
    transaction reads and writes no rows, so it delays no vacuum.
    """

    def __init__(self) -> None:
        self._connection: BaseDatabaseWrapper | None = None

    def take(self) -> bool:
        self.release()
        connection: Any = database().copy()
        connection.inc_thread_sharing()  # the pool's threads take turns
        taken: bool = False
        try:
            connection.ensure_connection()
            connection.set_autocommit(False)
            with connection.cursor() as cursor:  # the ORM has no API for advisory locks
                cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [ADVISORY_LOCK])
                taken = bool(cursor.fetchone()[0])
        finally:
            self._connection = connection
            if not taken:
                self.release()
        return taken

    def check(self) -> None:
        """Raises LeadLost if the connection, and so the lock, is gone."""
        if self._connection is None:
            raise LeadLost
        try:
            with self._connection.cursor() as cursor:
                cursor.execute("SELECT 1")  # the ORM selects from tables only. This also keeps an idle connection open
        except db.Error:
            self.release()
            raise LeadLost from None

    def release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(db.Error):  # the connection may be gone, and the lock with it
                connection.close()


class _FileLock:
    """A lock on a file beside a SQLite database. The operating system releases it when the process ends."""

    def __init__(self, path: object) -> None:
        self._path = f"{os.path.realpath(str(path))}.follower.lock"
        self._file: int | None = None

    def take(self) -> bool:
        self.release()
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        self._file = file
        return True

    def check(self) -> None:
        if self._file is None:
            raise LeadLost

    def release(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)
