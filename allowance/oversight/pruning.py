"""Delete the rows of the ledger that are no longer needed, for example by a balance or an audit.

Each batch is a short transaction, after which the ledger agrees with its history. Manifest syncs stay, because all
counts are computed from them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

from django.db.models import Exists, OuterRef, Q, QuerySet, Subquery

from allowance import ledger, reservations
from allowance.chain import newest_block
from allowance.locks import bound_waits, ledger_transaction, lock_account, lock_chain, lock_timeout, reading_transaction
from allowance.models import Account, Block, LedgerCheck, NeuronList, Reservation, ReservationState, expired_at
from allowance.plumbing.connections import renew_connection
from allowance.reservations import store_locked
from allowance.types import LockTimeout


class Batch(NamedTuple):
    """The result of a transaction: the number of rows that it deleted or changed.

    If other transactions kept rows locked, `locked` names them.
    """

    rows: int
    locked: str = ""


def _delete(found: QuerySet[Any]) -> int:
    return found.delete()[0]


def delete_in_batches(
    old: QuerySet[Any],
    unneeded: Q,
    batch: int,
    *,
    by: str = "pk",
    delete: Callable[[QuerySet[Any]], int] = _delete,
) -> Iterator[Batch]:
    """Delete the `old` rows that are `unneeded`. Examine `batch` old rows in a transaction.

    The rows are read in the order of the column `by`. This column needs an index, and so do the columns that `unneeded`
    looks up for each row. The deletion repeats the conditions of `old` and `unneeded`, because a row can change after
    it is read. `delete` performs the deletion and returns the number of rows. Raises LockTimeout.
    """
    rest = old
    while found := list(rest.order_by(by, "pk").values_list("pk", by)[:batch]):
        with ledger_transaction():
            bound_waits(lock_timeout())
            deleted = delete(old.filter(unneeded, pk__in=[pk for pk, _ in found]))
        yield Batch(deleted)
        last, reached = found[-1]
        rest = old.filter(**{f"{by}__gte": reached}).exclude(**{by: reached, "pk__lte": last})


def expired_reservations(now: dt.datetime) -> QuerySet[Reservation]:
    """Return the reservations that expired at or before `now` but are still stored as held."""
    return Reservation.objects.filter(expired_at(now))


def tidy_expired(now: dt.datetime) -> Iterator[Batch]:
    """Store which reservations expired at or before `now`, and free their blocks. Each account is one transaction."""
    with_expired = Account.objects.filter(Exists(expired_reservations(now).filter(account=OuterRef("pk"))))
    for account in with_expired.order_by("pk"):
        yield _under_lock(account, partial(_tidy, now))


def count_reservations(before: dt.datetime, unreferenced: Q) -> int:
    """Return how many reservations `prune_reservations` would delete after `tidy_expired`."""
    found = _ended(before, unreferenced, Q(ended_at__lte=before) | expired_at(before))
    with reading_transaction():
        return len(_unneeded(found.values_list("pk", "state", "blocks").iterator()))


def prune_reservations(before: dt.datetime, unreferenced: Q, batch: int) -> Iterator[Batch]:
    """Delete the `unreferenced` reservations that ended at or before `before`, under the lock of their account.

    A spent reservation stays as long as a balance remembers any of its blocks, because its row proves that the block is
    spent. An expired reservation stays until it is stored as expired.
    """
    past_use = _ended(before, unreferenced, Q(ended_at__lte=before))
    for account in Account.objects.order_by("pk"):  # reservations are indexed by account
        renew_connection()
        last = 0
        while found := list(
            past_use.filter(account=account, pk__gt=last).order_by("pk").values_list("pk", "state", "blocks")[:batch]
        ):
            last = found[-1][0]
            # This choice needs no lock: an ended reservation does not change, and only `forget_blocks` lowers the
            # number of the newest block.
            if gone := _unneeded(found):
                done = _under_lock(account, partial(_forget, past_use.filter(pk__in=gone)))
                yield done
                if done.locked:
                    break


def oldest_kept(before: dt.datetime) -> Block | None:
    """Return the oldest block to keep, or None. The blocks below it are old enough, and no balance needs them.

    Of the blocks minted at or before `before`, it is the newest that is not above the oldest block that balances
    remember. It stays because it keeps the neuron list in force: the oldest remembered block may have no list of its
    own, or may not be recorded yet.
    """
    old = Block.objects.filter(number__lte=_horizon(), timestamp__lte=before)
    return old.order_by("-number").first()


def blocks_below(oldest: Block | None) -> QuerySet[Block]:
    """Return the blocks below the oldest block to keep, the oldest first."""
    return Block.objects.filter(number__lt=oldest.number).order_by("number") if oldest else Block.objects.none()


def prune_blocks(before: dt.datetime, batch: int) -> Iterator[Batch]:
    """Delete the blocks below the oldest block to keep, the oldest first, under the chain lock. Raises LockTimeout.

    The chain gets no new version, because no router remembers these blocks. If a deleted block is recorded again, it
    counts as a late block and changes nothing from the oldest kept block on.
    """
    while blocks_below(oldest_kept(before)).first():
        with ledger_transaction():
            lock_chain()
            oldest = oldest_kept(before)
            past_use = blocks_below(oldest)
            if oldest and oldest.neurons_id is None:  # copy the list in force before its block is deleted
                Block.objects.filter(pk=oldest.pk).update(neurons=Subquery(_in_force(oldest)))
            numbers = list(past_use.values_list("number", flat=True)[:batch])
            deleted = _delete(past_use.filter(number__in=numbers))
        yield Batch(deleted)


def count_neuron_lists(before: dt.datetime) -> int:
    """Return how many neuron lists `prune_neuron_lists` would delete after `prune_blocks`."""
    oldest = oldest_kept(before)
    if oldest is None:
        return _unused(Block.objects.all()).count()
    return _unused(Block.objects.filter(number__gte=oldest.number)).exclude(pk__in=_in_force(oldest)).count()


def prune_neuron_lists(batch: int) -> Iterator[Batch]:
    """Delete the neuron lists to which no block refers, under the chain lock. Raises LockTimeout."""
    unused = _unused(Block.objects.all()).order_by("pk").values_list("pk", flat=True)
    while unused.exists():
        with ledger_transaction():
            lock_chain()
            deleted = _delete(NeuronList.objects.filter(pk__in=list(unused[:batch])).only("pk"))
        yield Batch(deleted)


def checks(before: dt.datetime) -> tuple[QuerySet[LedgerCheck], Q]:
    """Return the ledger checks made at or before `before`, and the condition that keeps the newest of all checks."""
    newest = LedgerCheck.objects.order_by("-at").values("pk")[:1]
    return LedgerCheck.objects.filter(at__lte=before), ~Q(pk__in=newest)


def _under_lock(which: Account, work: Callable[[Account], int]) -> Batch:
    """Run `work` on an account under its lock, in a transaction. If it stays locked, return its name instead."""
    try:
        with ledger_transaction():
            account = lock_account(pk=which.pk)
            return Batch(work(account) if account else 0)
    except LockTimeout:
        return Batch(0, f"account {which}")


def _tidy(now: dt.datetime, account: Account) -> int:
    expired = dict(expired_reservations(now).filter(account=account).values_list("pk", "blocks"))
    reservations.store_expired(account, expired)
    return len(expired)


def _forget(past_use: QuerySet[Reservation], account: Account) -> int:
    """Delete reservations of a locked account. Rebase its balance first, so that it still agrees with history."""
    balance = account.balance
    rebased = ledger.rebase(balance, newest_block())
    if rebased != balance:
        store_locked(account, rebased)
    return _delete(past_use)


def _ended(before: dt.datetime, unreferenced: Q, over: Q) -> QuerySet[Reservation]:
    """Return the reservations made at or before `before` that are `over` and `unreferenced`.

    A reservation can't end before it is made, so the index on `created_at` narrows the search.
    """
    return Reservation.objects.filter(over, unreferenced, created_at__lte=before)


def _unneeded(found: Iterable[tuple[int, str, list[int]]]) -> list[int]:
    """Return the ids of the reservations that the ledger no longer needs.

    `found` are ended reservations, given as (id, state, blocks).
    """
    horizon = _horizon()
    return [pk for pk, state, blocks in found if state != ReservationState.SPENT or max(blocks) < horizon]


def _horizon() -> int:
    """Return the oldest block that a rebased balance remembers."""
    return newest_block() - ledger.KEPT_BLOCKS


def _unused(blocks: QuerySet[Block]) -> QuerySet[NeuronList]:
    return NeuronList.objects.filter(~Exists(blocks.filter(neurons=OuterRef("pk"))))


def _in_force(block: Block) -> QuerySet[Block, Any]:
    """Return a query for the id of the neuron list in force at a block: the newest at or before it, if any."""
    listed = Block.objects.filter(number__lte=block.number, neurons__isnull=False)
    return listed.order_by("-number").values("neurons")[:1]
