"""Who locks what, in which order, and for how long.

1. The chain lock, by whatever records blocks, manifests or collateral, repairs, or prunes blocks. Only its holder
   writes what follows from the chain: blocks, neuron lists, manifest syncs, the rows of miners, an account's
   `executors`, `counts`, `voided_before`.
2. Account rows: one at a time by whatever reserves, spends, releases, repairs or prunes. Only the holder of the account
   row writes its `base`, `held`, `spent` and its reservations, which therefore need no lock of their own. The holder of
   the chain lock takes many, of the miners whose presence, address or executors it changes: a reservation is made
   wholly before such a change, or sees it. Who holds an account without the chain lock waits for no other lock of
   these. `forget_blocks` takes all accounts.
3. Rows of the caller's own that it writes in a reservation's transaction, last of all; whoever holds one of them waits
   for none of the above.

Whoever changes what a lock guards draws a new version: of the chain, by `chain_changed`; of an account, by storing its
balance, by declaring its executors or by `lock_accounts_of`. Routers remember what they read by these versions. What
somebody changes by hand, without a new one, they read at the next block.

What was read before a lock is a hint. Decide by the rows read under it, or by what was read before, if the account's
version is still the same. Two things are not read again: a block recorded meanwhile, which only adds to what a pick
that began before it may use, and what guards nothing: collateral and incidents. Blocks that were taken back give every
account a new version; a pick that finds one reads the blocks again too.

Nobody waits for ever for a row of the ledger: see `ledger_transaction`. Whoever locks whole tables, as a migration
does, holds everybody up; only PostgreSQL's own `lock_timeout` could end that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext

from django.db import OperationalError, connection, transaction

from allowance import rows
from allowance.models import Account, ChainLock, new_version
from allowance.plumbing.settings import conf
from allowance.types import LockTimeout

LOCK_NOT_AVAILABLE, DEADLOCK_DETECTED = "55P03", "40P01"
SQLITE_BUSY, SQLITE_LOCKED = 5, 6


def lock_timeout() -> float:
    """Return how many seconds to wait for a row, at most: the setting ALLOWANCE_LOCK_TIMEOUT."""
    seconds: float = conf.ALLOWANCE_LOCK_TIMEOUT
    return seconds


@contextmanager
def ledger_transaction(*, durable: bool = False) -> Iterator[None]:
    """Run a transaction in which a lock that can't be had in time raises LockTimeout, and nothing is stored.

    On PostgreSQL each wait ends after `lock_timeout`, unless the caller of `lock_account` says otherwise; on SQLite,
    where beginning is the lock, after the `timeout` among the connection's options.
    """
    try:
        with transaction.atomic(durable=durable):
            yield
    except OperationalError as error:
        if not _no_lock(error):
            raise
        raise LockTimeout from error


@contextmanager
def hurried_transaction(seconds: float) -> Iterator[None]:
    """Run a transaction whose every wait for a lock ends after `seconds`, on SQLite too, with LockTimeout.

    Inside a transaction of the caller's it is only a part of that, and as patient.
    """
    before, alone = None, not connection.in_atomic_block
    if connection.vendor == "sqlite" and alone:
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA busy_timeout")
            (before,) = cursor.fetchone()
            cursor.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")
    try:
        with ledger_transaction():
            if alone:
                bound_waits(seconds)
            yield
    finally:
        if before is not None:
            with connection.cursor() as cursor:
                cursor.execute(f"PRAGMA busy_timeout = {before}")


@contextmanager
def reading_transaction() -> Iterator[None]:
    """Run a transaction to read rows in with `QuerySet.iterator`; none on SQLite, where it would keep writers out.

    On PostgreSQL the iterator is a cursor of the server. It needs one connection of the server from its beginning to
    its end, which a pooler like PgBouncer grants to a transaction only.
    """
    with transaction.atomic() if connection.vendor == "postgresql" else nullcontext():
        yield


def lock_chain() -> None:
    """Wait for the chain lock and keep it until the transaction ends; `chain_changed` comes before any change."""
    bound_waits(lock_timeout())
    ChainLock.objects.get_or_create(pk=1)
    ChainLock.objects.select_for_update().get(pk=1)


def chain_changed() -> None:
    """Give the chain a new version, by which routers learn that what they remember is old. For who holds its lock."""
    ChainLock.objects.filter(pk=1).update(version=new_version())


def lock_account(
    *, wait: float | None = None, first_of: Mapping[str, int | None] | None = None, **which: object
) -> Account | None:
    """Lock an account's row until the transaction ends and return it.

    `which` names it: by its `pk`, its `miner` and `executor_class`, or one's `reservation`. `first_of` in place of
    `miner`, a mapping of hotkeys to versions, names the first in order that can be had and is at that version (None:
    at any). `wait` are the seconds to wait for whoever holds it (left out: `lock_timeout`). Returns None if there is
    none, or, if `wait` is 0, if somebody holds it.
    """
    if not connection.in_atomic_block:
        raise transaction.TransactionManagementError("An account is locked inside a transaction only.")
    patience = lock_timeout() if wait is None else wait
    if patience > 0:
        bound_waits(patience)
    return rows.lock_row(which, first_of, skip_locked=patience <= 0)


def lock_accounts_of(miners: Collection[str]) -> None:
    """Lock all accounts of `miners` until the transaction ends, and give them a new version. For who holds the chain.

    They may share it: whoever reads one of them later reads all of them in the same statement.
    """
    if miners:
        accounts = Account.objects.filter(miner__in=rows.among(miners))
        list(accounts.select_for_update().order_by("pk").values_list("pk"))
        accounts.update(version=new_version())


def bound_waits(seconds: float) -> None:
    """Let every wait for a lock end after `seconds`, until the transaction ends."""
    if connection.vendor == "postgresql":
        milliseconds = max(1, round(seconds * 1000))  # 0 would mean for ever
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", [str(milliseconds)])


def _no_lock(error: OperationalError) -> bool:
    """Tell whether an error means that others held a lock, by the database's own code."""
    cause = error.__cause__
    sqlite_code: int = getattr(cause, "sqlite_errorcode", 0) & 0xFF  # extended codes have more bits
    return getattr(cause, "sqlstate", None) in {LOCK_NOT_AVAILABLE, DEADLOCK_DETECTED} or sqlite_code in {
        SQLITE_BUSY,
        SQLITE_LOCKED,
    }
