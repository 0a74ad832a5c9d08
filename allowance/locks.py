"""The locks of the ledger: what they guard, in which order they are taken, and how long a transaction waits for them.

A transaction takes locks in this order:

1. The chain lock. A transaction takes it to record blocks, manifests or collateral, to check the ledger with or
   without repair, to forget blocks, to prune blocks or neuron lists, or to replay a journal. Only its holder writes
   data that follows from the chain: blocks, neuron lists, manifest syncs, the rows of miners, and an account's
   `executors`, `counts` and `voided_before`.
2. Account rows. Only the holder of an account row writes the account's `base`, `held` and `spent` and its reservations,
   which therefore need no lock of their own. To reserve, spend, release, check, repair or prune reservations, a
   transaction locks one account. If it does not hold the chain lock, it then waits for no other lock of 1 or 2. The
   holder of the chain lock may lock several accounts: all accounts of a miner whose presence or address it changes,
   each account whose executors it changes, and the accounts of the reservations in a journal. `forget_blocks` locks all
   accounts. A reservation is therefore complete before such a change, or it sees the change.
3. Rows of the caller, written in the transaction of a reservation. A transaction that holds one of them waits for no
   lock of 1 or 2.

A transaction draws a new version if it changes guarded data that routers read. `chain_changed` gives the chain a new
version. An account gets one when its balance is stored, when its executors are declared, and from `lock_accounts_of`.
Routers remember accounts by these versions. If SQL changes such data, but does not both draw a new version and write an
account's `changed`, routers read the change up to a minute later.

Data read before a lock is a hint. Decide by rows read under the lock, or write at the version that was read: an update
with the account's version as a condition, which skips the account if others have locked it (see `reservations.store`).
While the account's version is the same, a pick does not read the blocks again: blocks recorded since can only add to
the blocks usable at the time of the reading. `forget_blocks`, which removes blocks, gives a new version to the chain
and to all accounts. A pick does not check collateral and incidents again: the ledger stays correct even if they have
changed.

Waits for rows of the ledger are bounded: see `ledger_transaction`. A lock of a whole table, as a migration takes it,
blocks every transaction. `bound_waits` limits the waits for it too. Before a transaction calls `bound_waits`, and in
the statements by which a pick reads and reserves, only the server's own `lock_timeout` in PostgreSQL can end such a
wait.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from django.db import OperationalError, transaction
from django.db.models import QuerySet, Subquery

from allowance import rows
from allowance.models import Account, ChainLock, Miner, Reservation, new_version
from allowance.plumbing.compiled import Compiled, columns_of, parameter, row_of
from allowance.plumbing.database import alias, database
from allowance.plumbing.settings import conf
from allowance.types import LockTimeout

LOCK_NOT_AVAILABLE, DEADLOCK_DETECTED = "55P03", "40P01"
SQLITE_BUSY, SQLITE_LOCKED = 5, 6


def lock_timeout() -> float:
    """Return the maximum wait for a row, in seconds: the setting ALLOWANCE_LOCK_TIMEOUT."""
    seconds: float = conf.ALLOWANCE_LOCK_TIMEOUT
    return seconds


@contextmanager
def ledger_transaction(*, durable: bool = False) -> Iterator[None]:
    """Run a transaction that raises LockTimeout and stores nothing if it can't get a lock in time, or deadlocks.

    On PostgreSQL each wait ends after the time that `bound_waits` sets. `lock_chain` calls it, and so does
    `lock_account` unless its `wait` is 0. `reservations.hold` sets the time for rows too. Before that, only the
    server's own `lock_timeout` applies. On SQLite a transaction takes the only lock when it begins. This wait ends
    after the `timeout` in the connection's options.
    """
    with ledger_statement(), transaction.atomic(alias(), durable=durable):
        yield


@contextmanager
def ledger_statement() -> Iterator[None]:
    """Run one statement as a transaction of its own. Raises LockTimeout as `ledger_transaction` does."""
    try:
        yield
    except OperationalError as error:
        if not _no_lock(error):
            raise
        raise LockTimeout from error


@contextmanager
def hurried_transaction(seconds: float) -> Iterator[None]:
    """Run a transaction in which each wait for a lock, on SQLite too, raises LockTimeout after `seconds`.

    Inside a transaction of the caller it is a savepoint, and the caller's timeouts apply.
    """
    connection = database()
    before, alone = None, not connection.in_atomic_block
    if connection.vendor == "sqlite" and alone:
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA busy_timeout")  # the ORM has no API for settings of a connection
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
    """Run a transaction that reads rows with `QuerySet.iterator`. On SQLite, run none: it would block writers.

    On PostgreSQL the iterator is a server-side cursor. It needs the same server connection from its beginning to its
    end, which a pooler such as PgBouncer guarantees only within a transaction.
    """
    with transaction.atomic(alias()) if database().vendor == "postgresql" else nullcontext():
        yield


def lock_chain() -> None:
    """Take the chain lock until the transaction ends. Call `chain_changed` before any change that routers must read."""
    bound_waits(lock_timeout())
    locked = ChainLock.objects.select_for_update().filter(pk=1)
    if not locked:
        ChainLock.objects.get_or_create(pk=1)
        locked.get()


def chain_changed() -> None:
    """Give the chain a new version, so that routers read it again. The caller holds the chain lock."""
    ChainLock.objects.filter(pk=1).update(version=new_version())


def _locking() -> QuerySet[Account, Any]:
    reserved = Reservation.objects.filter(pk=parameter(Reservation, "id")).values("account")[:1]
    columns = (*columns_of(Account), *columns_of(Miner, "miner__"))
    return Account.objects.filter(pk=Subquery(reserved)).locked().values_list(*columns)


LOCK_OF_RESERVATION = Compiled(_locking)
"""The statement that locks and reads a reservation's account, and reads its miner. It runs at each spend and release.
"""


def lock_account(
    *,
    wait: float | None = None,
    pk: int | None = None,
    miner: str | None = None,
    executor_class: str | None = None,
    reservation: int | None = None,
) -> Account | None:
    """Lock an account's row until the transaction ends and return it, with its miner.

    The account is selected by its `pk`, by its `miner` and `executor_class`, or by the id of a `reservation`. `wait` is
    the maximum wait in seconds (None: `lock_timeout`). If it is 0, a locked account is skipped, except with a
    `reservation`. Returns None if there is no such account, or if it was skipped.

    Raises TransactionManagementError outside a transaction.
    """
    if not database().in_atomic_block:
        raise transaction.TransactionManagementError("Call lock_account inside a transaction.")
    patience = lock_timeout() if wait is None else wait
    if patience > 0:
        bound_waits(patience)
    if reservation is not None:
        return next(map(_account, LOCK_OF_RESERVATION.fetch(id=reservation)), None)
    accounts = Account.objects.select_related("miner").locked(skip=patience <= 0)
    if pk is not None:
        return accounts.filter(pk=pk).first()
    return accounts.filter(miner=miner, executor_class=executor_class).first()


def _account(row: Sequence[Any]) -> Account:
    own = len(columns_of(Account))
    account = row_of(Account, row[:own])
    account.miner = row_of(Miner, row[own:])
    return account


def lock_accounts_of(miners: Collection[str]) -> None:
    """Lock all accounts of `miners` until the transaction ends, and give them a new version.

    They can share a version because it is committed for all of them at the same time. The caller holds the chain lock.
    """
    if miners:
        accounts = Account.objects.filter(miner__in=rows.among(miners))
        list(accounts.select_for_update().order_by("pk").values_list("pk"))
        accounts.update(version=new_version())


def bound_waits(seconds: float) -> None:
    """Limit each wait for a lock to `seconds` until the transaction ends. Does nothing on SQLite."""
    connection = database()
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:  # the ORM selects from tables only
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", [milliseconds(seconds)])


def milliseconds(seconds: float) -> str:
    """Return a wait as text in milliseconds, for PostgreSQL's setting `lock_timeout`."""
    return str(max(1, round(seconds * 1000)))  # 0 would mean no limit


def _no_lock(error: OperationalError) -> bool:
    """Tell by the database's error code whether a lock was not available or a deadlock was detected."""
    cause = error.__cause__
    sqlite_code: int = getattr(cause, "sqlite_errorcode", 0) & 0xFF  # the low byte is the primary code
    return getattr(cause, "sqlstate", None) in {LOCK_NOT_AVAILABLE, DEADLOCK_DETECTED} or sqlite_code in {
        SQLITE_BUSY,
        SQLITE_LOCKED,
    }
