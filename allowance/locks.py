"""Who locks what, and in which order.

1. The chain lock, by whatever records blocks or manifests, or repairs. Only its holder writes what follows from the
   chain: blocks, neuron lists, manifest syncs, `Miner.presence`, an account's `executors`, `counts`, `voided_before`.
2. Account rows: one at a time by whatever reserves, spends, releases or repairs; the recorder of manifests updates
   many, but takes no lock after them. Only the holder of the account row writes its `base`, `held`, `spent` and its
   reservations, which therefore need no lock of their own.

What was read before a lock is a hint. Decide by the row that the lock returned.
"""

from __future__ import annotations

from django.db import transaction

from allowance.models import Account, ChainLock


def lock_chain() -> None:
    """Wait for the chain lock and keep it until the transaction ends."""
    ChainLock.objects.get_or_create(pk=1)
    ChainLock.objects.select_for_update().get(pk=1)


def lock_account(*, wait: bool = True, **which: object) -> Account | None:
    """Lock an account's row until the transaction ends and return it.

    `which` are the conditions that name the account. Returns None if there is none, or, without `wait`, if somebody
    else holds it.
    """
    if not transaction.get_connection().in_atomic_block:
        raise transaction.TransactionManagementError("An account is locked inside a transaction only.")
    return Account.objects.select_for_update(of=("self",), skip_locked=not wait).filter(**which).first()
