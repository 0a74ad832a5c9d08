"""Delete what of the ledger is past use: what neither a balance, nor an audit, nor anybody else needs any more.

Each batch is a short transaction, after which the ledger agrees with its history. The syncs of manifests stay: all
counts are folded from them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

from django.db.models import Exists, OuterRef, Q, QuerySet, Subquery

from allowance import ledger, reservations, rows
from allowance.chain import newest_block
from allowance.locks import bound_waits, ledger_transaction, lock_account, lock_chain, lock_timeout, reading_transaction
from allowance.models import Account, Block, LedgerCheck, NeuronList, Reservation, ReservationState
from allowance.state import expired_at
from allowance.types import LockTimeout


class Batch(NamedTuple):
    """What one transaction came to: the rows that it deleted or changed, or what others kept `locked`."""

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
    """Go through `old` rows, `batch` in a transaction, and delete those of them that are `unneeded`.

    They come in the order of the column `by`, which must be indexed, and so must be what `unneeded` looks up for a row
    at hand. The statement that deletes asks again for all that makes a row old; `delete` is that statement, and what
    has to go with it. Raises LockTimeout.
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
    """Return the holds that expired by `now` and whose rows do not say so yet."""
    return Reservation.objects.filter(expired_at(now))


def tidy_expired(now: dt.datetime) -> Iterator[Batch]:
    """Store of all holds that expired by `now` that they have, and that their blocks are free, account by account."""
    with_expired = Account.objects.filter(Exists(expired_reservations(now).filter(account=OuterRef("pk"))))
    for account in with_expired.order_by("pk"):
        yield _under_lock(account, partial(_tidy, now))


def count_reservations(before: dt.datetime, unreferenced: Q) -> int:
    """Return how many reservations are past use, once the holds that expired are tidied; see `prune_reservations`."""
    found = _ended(before, unreferenced, Q(ended_at__lte=before) | expired_at(before))
    with reading_transaction():
        return len(_unneeded(found.values_list("pk", "state", "blocks").iterator()))


def prune_reservations(before: dt.datetime, unreferenced: Q, batch: int) -> Iterator[Batch]:
    """Delete reservations that ended by `before`, and that are `unreferenced` by others, under their account's lock.

    A spent one stays until no balance remembers its blocks: until then its row is what says that they are gone. One
    that expired stays until its row says so.
    """
    past_use = _ended(before, unreferenced, Q(ended_at__lte=before))
    for account in Account.objects.order_by("pk"):  # by account there is an index
        last = 0
        while found := list(
            past_use.filter(account=account, pk__gt=last).order_by("pk").values_list("pk", "state", "blocks")[:batch]
        ):
            last = found[-1][0]
            # This much is known without the lock: what has ended stays as it is, and the newest block only rises.
            if gone := _unneeded(found):
                done = _under_lock(account, partial(_forget, past_use.filter(pk__in=gone)))
                yield done
                if done.locked:
                    break


def oldest_kept(before: dt.datetime) -> Block | None:
    """Return the block below which all are past use: minted by `before`, and no balance remembers it.

    It stays itself, to say which neurons are registered from it on. The oldest block that balances remember may have
    no list of its own, or may come late.
    """
    old = Block.objects.filter(number__lte=_horizon(), timestamp__lte=before)
    return old.order_by("-number").first()


def blocks_below(oldest: Block | None) -> QuerySet[Block]:
    """Return the blocks older than the oldest that is kept, the oldest first."""
    return Block.objects.filter(number__lt=oldest.number).order_by("number") if oldest else Block.objects.none()


def prune_blocks(before: dt.datetime, batch: int) -> Iterator[Batch]:
    """Delete the blocks below the oldest that is kept, the oldest first, under the chain lock. Raises LockTimeout.

    The chain gets no new version, for nobody remembers anything of these blocks. One of them that is recorded again
    is taken for a late one: it changes nothing from the oldest kept block on.
    """
    while blocks_below(oldest_kept(before)).first():
        with ledger_transaction():
            lock_chain()
            oldest = oldest_kept(before)
            past_use = blocks_below(oldest)
            if oldest and oldest.neurons_id is None:  # while there is a block to say which list is in force
                Block.objects.filter(pk=oldest.pk).update(neurons=Subquery(_in_force(oldest)))
            numbers = list(past_use.values_list("number", flat=True)[:batch])
            deleted = _delete(past_use.filter(number__in=numbers))
        yield Batch(deleted)


def count_neuron_lists(before: dt.datetime) -> int:
    """Return how many lists of neurons no block refers to, once the blocks that are past use are gone."""
    oldest = oldest_kept(before)
    if oldest is None:
        return _unused(Block.objects.all()).count()
    return _unused(Block.objects.filter(number__gte=oldest.number)).exclude(pk__in=_in_force(oldest)).count()


def prune_neuron_lists(batch: int) -> Iterator[Batch]:
    """Delete the lists of neurons to which no block refers, under the chain lock. Raises LockTimeout."""
    unused = _unused(Block.objects.all()).order_by("pk").values_list("pk", flat=True)
    while unused.exists():
        with ledger_transaction():
            lock_chain()
            deleted = _delete(NeuronList.objects.filter(pk__in=list(unused[:batch])).only("pk"))
        yield Batch(deleted)


def checks(before: dt.datetime) -> tuple[QuerySet[LedgerCheck], Q]:
    """Return the checks of the ledger made by `before`, and that there is a newer one: the last is looked at."""
    newest = LedgerCheck.objects.order_by("-at").values("pk")[:1]
    return LedgerCheck.objects.filter(at__lte=before), ~Q(pk__in=newest)


def _under_lock(which: Account, work: Callable[[Account], int]) -> Batch:
    """Do some work on the rows of an account, locked, in a transaction; if others keep it locked, say so."""
    try:
        with ledger_transaction():
            account = lock_account(pk=which.pk)
            return Batch(work(account) if account else 0)
    except LockTimeout:
        return Batch(0, f"account {which}")


def _tidy(now: dt.datetime, account: Account) -> int:
    expired = dict(expired_reservations(now).filter(account=account).values_list("pk", "blocks"))
    reservations.tidy(account, account.balance, expired)
    return len(expired)


def _forget(past_use: QuerySet[Reservation], account: Account) -> int:
    """Delete reservations of a locked account, and let its balance forget the same blocks, as history does then."""
    balance = account.balance
    rebased = ledger.rebase(balance, newest_block())
    if rebased != balance:
        rows.store(account, base=rebased.base, held=rebased.held, spent=rebased.spent)
    return _delete(past_use)


def _ended(before: dt.datetime, unreferenced: Q, over: Q) -> QuerySet[Reservation]:
    """Return the reservations made before that time that are `over`, and `unreferenced` by others.

    Nothing ends before it is made, and of when that was there is an index.
    """
    return Reservation.objects.filter(over, unreferenced, created_at__lte=before)


def _unneeded(found: Iterable[tuple[int, str, list[int]]]) -> list[int]:
    """Return the ids of ended reservations, given as (id, state, blocks), that the ledger can do without."""
    horizon = _horizon()
    return [pk for pk, state, blocks in found if state != ReservationState.SPENT or max(blocks) < horizon]


def _horizon() -> int:
    """Return the oldest block that a balance remembers once it is rebased."""
    return newest_block() - ledger.KEPT_BLOCKS


def _unused(blocks: QuerySet[Block]) -> QuerySet[NeuronList]:
    return NeuronList.objects.filter(~Exists(blocks.filter(neurons=OuterRef("pk"))))


def _in_force(block: Block) -> QuerySet[Block, Any]:
    """Return the id of the list of neurons in force at a block, as a query: the newest at or before it, if any."""
    listed = Block.objects.filter(number__lte=block.number, neurons__isnull=False)
    return listed.order_by("-number").values("neurons")[:1]
