"""The transactions that reserve, spend and release allowance, each under the lock of its account."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from contextlib import suppress
from functools import cache, partial
from types import MappingProxyType
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import CharField, Exists, F, Model, Subquery
from django.db.models.sql import Query

from allowance import clock, ledger, validation
from allowance.chain import newest_block
from allowance.ledger import Balance
from allowance.locks import chain_changed, ledger_transaction, lock_account, lock_chain, lock_timeout, milliseconds
from allowance.models import (
    Account,
    Miner,
    Reservation,
    ReservationState,
    expired_at,
    new_reservation_id,
    new_version,
)
from allowance.plumbing.compiled import (
    Compiled,
    Param,
    Together,
    columns_of,
    inserting,
    parameter,
    row_of,
    stored_values,
    updating,
)
from allowance.plumbing.database import alias
from allowance.plumbing.transactions import Bounded, ServerTime, ThisTransaction
from allowance.reading import Expired, window
from allowance.types import (
    EXECUTOR_CLASSES,
    RESERVATION_IDS,
    RESERVATION_MARGIN,
    CannotReserveAllowanceException,
    ReservationAlreadySpent,
    ReservationException,
    ReservationExpired,
    ReservationNotFound,
    ReservationReleased,
)


def _storing(*conditions: Any) -> Query:
    """Return the update of the account at the version that was read.

    If others have locked the account, it updates nothing and does not wait.
    """
    as_read = Account.objects.filter(pk=parameter(Account, "id"), version=parameter(Account, "version", "as_read"))
    locked = as_read.filter(*conditions).locked(skip=True)
    account = Account.objects.filter(pk=Subquery(locked.values("pk")[:1]))
    new = {name: parameter(Account, name) for name in ("base", "held", "spent", "version")}
    return updating(account, **new, changed=ThisTransaction())


STORE = Compiled(_storing)
"""The statement that stores a balance and a new version, unless others have locked or changed the account."""

STORE_HELD = Compiled(
    lambda: _storing(
        ~Exists(Reservation.objects.filter(pk=parameter(Reservation, "id", "reservation"))),
        Bounded(Param("milliseconds", CharField())),
    )
)
"""STORE with one more condition: no reservation has the new id. It also limits later waits of the transaction."""


def store(account: Account, balance: Balance) -> bool:
    """Store which blocks are held and spent, with a new version.

    Return False, and store nothing, if others have locked the account or changed it since `account.version`.
    """
    changes = _changes(balance)
    if STORE.execute(id=account.pk, as_read=account.version, **changes) != 1:
        return False
    vars(account).update(changes)
    return True


def _changes(balance: Balance) -> dict[str, Any]:
    return {"base": balance.base, "held": balance.held, "spent": balance.spent, "version": new_version()}


@cache
def _together(update: Compiled, *models: type[Model]) -> Together:
    """Return the statement that updates, and inserts a row of each model."""
    return Together(update, *(Compiled(partial(inserting, model)) for model in models))


def store_locked(account: Account, balance: Balance) -> None:
    """Store the balance of a locked account."""
    if not store(account, balance):
        raise changed_without_lock(account)


def changed_without_lock(account: Account) -> RuntimeError:
    """Return the error for an account that was changed without its lock."""
    return RuntimeError(f"The account {account} is locked by this transaction, but its version has changed.")


def tidy(balance: Balance, expired: Expired) -> Balance:
    """Return the balance with the blocks of expired reservations free."""
    for blocks in expired.values():
        balance = ledger.free_again(balance, blocks)
    return balance


def store_expired(account: Account, expired: Expired) -> None:
    """Free the blocks of expired reservations of a locked account, and mark them as expired."""
    if expired:
        store_locked(account, tidy(account.balance, expired))
        _expire(expired)


def _expire(expired: Expired) -> None:
    if expired:
        Reservation.objects.filter(pk__in=expired).update(state=ReservationState.EXPIRED, ended_at=F("expires_at"))


def draft(
    account: Account, blocks: Sequence[int], *, seconds: float, job_uuid: UUID | None, now: dt.datetime
) -> Reservation:
    """Return a reservation of blocks from `now` on, for `seconds` plus RESERVATION_MARGIN. It is not stored yet."""
    expires_at = now + dt.timedelta(seconds=seconds) + RESERVATION_MARGIN
    return Reservation(account=account, job_uuid=job_uuid, blocks=list(blocks), created_at=now, expires_at=expires_at)


def hold(
    reservation: Reservation, balance: Balance, *rows: Model, expired: Expired = MappingProxyType({}), newest: int
) -> bool:
    """Store a drafted reservation, and other rows with it.

    `balance` is the account's balance without the blocks of the `expired` reservations. Return False, and store
    nothing, if a stored reservation has the id, or if others have locked the account or changed it since it was read.
    Each wait for the other rows is bounded by `lock_timeout`, until the transaction ends. On SQLite, or if there are
    `expired` reservations, call this in a transaction. Raises IntegrityError if a row can't be inserted.
    """
    account = reservation.account
    changes = _changes(ledger.rebase(ledger.hold(balance, reservation.blocks), newest))
    as_read = {"id": account.pk, "as_read": account.version, "reservation": reservation.pk}
    update = {**as_read, "milliseconds": milliseconds(lock_timeout()), **changes}
    new = reservation, *rows
    if not _together(STORE_HELD, *map(type, new)).execute(update, *map(stored_values, new)):
        return False
    vars(account).update(changes)
    _expire(expired)
    for row in new:
        row._state.adding = False
    return True


def reserve(
    *,
    miner: str,
    executor_class: str,
    seconds: float,
    job_start_block: int,
    job_uuid: UUID | None,
    now: dt.datetime | None = None,
) -> Reservation:
    """Reserve whole blocks of one account, the oldest free first, until they add up to `seconds`.

    The clock is read under the lock, unless `now` is given: a time read before the wait for the lock may be too old.
    Raises CannotReserveAllowanceException if there are too few blocks, if the miner is not registered, or if it has no
    account in the class.
    """
    with ledger_transaction():
        known = executor_class in EXECUTOR_CLASSES
        account = lock_account(miner=miner, executor_class=executor_class) if known else None
        if account is None:
            raise CannotReserveAllowanceException(
                miner=miner, executor_class=executor_class, required=seconds, available=0.0
            )
        now = now or clock.now()
        expired = dict(Reservation.objects.filter(expired_at(now), account=account).values_list("pk", "blocks"))
        balance = tidy(account.balance, expired)
        usable = window(job_start_block)
        blocks = ledger.take(usable, balance, ledger.to_ns(seconds)) if balance.registered else None
        if blocks is None:
            free = ledger.survey(usable, [balance])[0].free if balance.registered else 0
            raise CannotReserveAllowanceException(
                miner=miner, executor_class=executor_class, required=seconds, available=ledger.to_seconds(free)
            )
        reservation = draft(account, blocks, seconds=seconds, job_uuid=job_uuid, now=now)
        while not hold(reservation, balance, expired=expired, newest=usable.newest or 0):
            if not Reservation.objects.filter(pk=reservation.pk).exists():
                raise changed_without_lock(account)
            reservation.pk = new_reservation_id()
        return reservation


def spend(reservation_id: int, *, now: dt.datetime | None = None) -> None:
    """Spend a held reservation: its blocks can't be used again. Raises a ReservationException if it isn't held."""
    _end(reservation_id, ReservationState.SPENT, now)


def release(reservation_id: int, *, now: dt.datetime | None = None) -> None:
    """Release a held reservation: its blocks are free again. Raises a ReservationException if it isn't held."""
    _end(reservation_id, ReservationState.RELEASED, now)


def release_undelivered(reservation_id: int) -> None:
    """Release a reservation that was not delivered to its caller. Do nothing if it has expired."""
    with suppress(ReservationExpired):
        release(reservation_id)


REFUSALS: dict[ReservationState, type[ReservationException]] = {
    ReservationState.SPENT: ReservationAlreadySpent,
    ReservationState.RELEASED: ReservationReleased,
    ReservationState.EXPIRED: ReservationExpired,
}


READ = Compiled(
    lambda: Reservation.objects.filter(pk=parameter(Reservation, "id")).values_list(
        *columns_of(Reservation), ServerTime()
    )
)
"""The statement that reads a reservation and the server's time. It runs after the account is locked."""

END = Compiled(
    lambda: updating(
        Reservation.objects.filter(pk=parameter(Reservation, "id")),
        state=parameter(Reservation, "state"),
        ended_at=parameter(Reservation, "ended_at"),
    )
)


def _end(reservation_id: int, end: ReservationState, now: dt.datetime | None) -> None:
    reservation_id = validation.reservation_id(reservation_id)
    if not 0 < reservation_id < RESERVATION_IDS:  # SQLite can't look up ids of more than 63 bits
        raise ReservationNotFound(reservation_id)
    with ledger_transaction():
        account = lock_account(reservation=reservation_id)
        if account is None:
            raise ReservationNotFound(reservation_id)
        ((*columns, read_at),) = READ.fetch(id=reservation_id)
        reservation, now = row_of(Reservation, columns), now or clock.now(by_server=read_at)
        state = reservation.state_at(now)
        if state is ReservationState.EXPIRED and reservation.state == ReservationState.HELD:
            # Store the expiry: the caller may rely on it, even if the next call reads a clock that is behind.
            store_expired(account, {reservation.pk: reservation.blocks})
        elif state is ReservationState.HELD:
            bits = ledger.to_bits(reservation.blocks, account.base)
            spent = account.spent | bits if end is ReservationState.SPENT else account.spent
            store_locked(account, account.balance._replace(held=account.held & ~bits, spent=spent))
            END.execute(id=reservation.pk, state=end, ended_at=now)
    if state is not ReservationState.HELD:
        raise REFUSALS[state](reservation_id)


def restore(reservation: Reservation, *, miner: str, executor_class: str) -> None:
    """Store a reservation from a journal under its old id. Do nothing if it is stored already.

    Raises ValueError if another reservation has the id. For a held or spent reservation, also raises it if the account
    is missing, or if a block is taken or not recorded. The account and the blocks of a released or expired one may have
    been forgotten since.
    """
    live = reservation.state in {ReservationState.HELD, ReservationState.SPENT}
    with ledger_transaction():
        account = lock_account(miner=miner, executor_class=executor_class)
        if account is None and not live:
            account = _empty_account(miner, executor_class)
        if account is None:
            raise ValueError(
                f"Reservation {reservation.pk}: miner {miner} has no account for {executor_class}. "
                "Replay the manifests of the miner first."
            )
        reservation.account = account
        known = Reservation.objects.filter(pk=reservation.pk).first()
        if known is not None:
            lived_on = reservation.state == ReservationState.HELD  # if it has ended, then after the journal was written
            if _origin(known) != _origin(reservation) or not (lived_on or _end_of(known) == _end_of(reservation)):
                raise _means_something_else(reservation)
            return
        newest = newest_block()
        if live and max(reservation.blocks) > newest:
            raise ValueError(
                f"Reservation {reservation.pk} uses block {max(reservation.blocks)}, which is not recorded. "
                "Replay the blocks first."
            )
        bits = ledger.to_bits(reservation.blocks, account.base)
        if live and bits & (account.held | account.spent):
            raise ValueError(
                f"Reservation {reservation.pk} uses blocks that another reservation uses already. "
                "Restore into an empty database."
            )
        try:
            with transaction.atomic(alias()):
                reservation.save(force_insert=True)
        except IntegrityError as error:
            if Reservation.objects.filter(pk=reservation.pk).exists():  # another account just stored one with it
                raise _means_something_else(reservation) from error
            raise
        if live:
            if reservation.state == ReservationState.SPENT:
                account.spent |= bits
            else:
                account.held |= bits
            store_locked(account, ledger.rebase(account.balance, newest))


def _means_something_else(reservation: Reservation) -> ValueError:
    return ValueError(
        f"This database has another reservation with the id {reservation.pk}. Restore into an empty database."
    )


def _empty_account(miner: str, executor_class: str) -> Account:
    """Create an account without executors under the chain lock and return it."""
    lock_chain()
    chain_changed()
    row, _ = Miner.objects.get_or_create(hotkey=validation.hotkey(miner))
    return Account.objects.create(miner=row, executor_class=validation.executor_class(executor_class))


def _origin(reservation: Reservation) -> tuple[object, ...]:
    r = reservation
    return r.account_id, r.job_uuid, r.blocks, r.created_at, r.expires_at


def _end_of(reservation: Reservation) -> tuple[object, ...]:
    return reservation.state, reservation.ended_at
