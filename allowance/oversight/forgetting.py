"""Forget blocks that were recorded by mistake, and rebuild what derives from them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from django.db.models import Exists, F, OuterRef

from allowance import clock, ledger, rows
from allowance.chain import newest_block
from allowance.locks import chain_changed, ledger_transaction, lock_accounts_of, lock_chain, reading_transaction
from allowance.models import Account, Block, ManifestSync, Miner, Reservation, ReservationState
from allowance.oversight import history
from allowance.oversight.audit import compare, live_reservations
from allowance.reading import window
from allowance.reservations import store_locked
from allowance.types import BlocksInUse

BATCH = 1000


@dataclass(slots=True)
class Forgotten:
    """The number of blocks and manifest syncs that are forgotten, and the ids of the reservations that use such blocks.

    `held` ones are released, if the caller allows it. `expired` ones are stored as expired. `spent` ones prevent the
    forgetting; `spent_up_to` is their newest block.
    """

    first: int
    blocks: int
    syncs: int
    held: list[int] = field(default_factory=list)
    expired: list[int] = field(default_factory=list)
    spent: list[int] = field(default_factory=list)
    spent_up_to: int | None = None

    def refusal(self, *, release_held: bool) -> BlocksInUse | None:
        """Return the error that names the reservations which prevent the forgetting, or None."""
        if self.spent or (self.held and not release_held):
            return BlocksInUse(self.first, held=self.held, spent=self.spent, spent_up_to=self.spent_up_to)
        return None


def find(first: int, *, now: dt.datetime | None = None) -> Forgotten:
    """Return what would be forgotten, and which reservations would prevent it. Write and lock nothing."""
    found = Forgotten(
        first,
        Block.objects.filter(number__gte=first).count(),
        ManifestSync.objects.filter(block__gte=first).count(),
    )
    at = now or clock.now()
    ends = {ReservationState.HELD: found.held, ReservationState.EXPIRED: found.expired}
    with reading_transaction():
        for reservation in live_reservations().only("state", "expires_at", "blocks").iterator():
            newest = max(reservation.blocks)
            if newest < first:
                continue
            state = reservation.state_at(at)
            if state is ReservationState.SPENT:
                found.spent_up_to = max(newest, found.spent_up_to or 0)
            ends.get(state, found.spent).append(reservation.pk)
    return found


def forget_blocks(first: int, *, release_held: bool = False, now: dt.datetime | None = None) -> Forgotten:
    """Forget the blocks from number `first` on and the manifest syncs at these blocks.

    Undo the voiding that these syncs caused. The blocks can be recorded again afterwards. Raises BlocksInUse, and
    changes nothing, if a spent reservation uses such a block, or if a held one does and `release_held` is false. Raises
    LockTimeout if others keep the ledger locked.
    """
    with ledger_transaction():
        lock_chain()
        chain_changed()
        lock_accounts_of(set(Account.objects.values_list("miner", flat=True)))
        at = now or clock.now()
        found = find(first, now=at)
        if refusal := found.refusal(release_held=release_held):
            raise refusal
        for pks in _batches(found.expired):
            Reservation.objects.filter(pk__in=pks).update(state=ReservationState.EXPIRED, ended_at=F("expires_at"))
        for pks in _batches(found.held):
            Reservation.objects.filter(pk__in=pks).update(state=ReservationState.RELEASED, ended_at=at)
        ManifestSync.objects.filter(block__gte=first).delete()
        Block.objects.filter(number__gte=first).delete()
        Block.objects.filter(number=first - 1).update(ns=None)
        _derive_accounts()
        _derive_miners()
    return found


def _derive_accounts() -> None:
    """Rebuild all accounts from the history. Delete an undeclared account, unless it has reservations."""
    declared, horizon = history.declared(), newest_block() - ledger.KEPT_BLOCKS
    accounts = Account.objects.select_related("miner").in_bulk()
    usable, live = window(None), groupby(live_reservations().iterator(), key=lambda reservation: reservation.account_id)
    balances = {pk: compare(accounts[pk], of_account, usable)[1] for pk, of_account in live}
    for pk, account in accounts.items():
        balance = balances[pk] if pk in balances else compare(account, (), usable)[1]
        if balance != account.balance:
            store_locked(account, balance)
    changed = []
    for account in accounts.values():
        key = account.miner_id, account.executor_class
        executors, voided_before, counts = declared.get(key, history.NOTHING_DECLARED)
        changed.append((*key, executors, voided_before, ledger.forget(counts, horizon)))
    rows.upsert(Account, ["miner", "executor_class"], ["executors", "voided_before", "counts"], changed)
    reserved = Reservation.objects.filter(account=OuterRef("pk"))
    unknown = [pk for pk, a in accounts.items() if (a.miner_id, a.executor_class) not in declared]
    for pks in _batches(unknown):
        Account.objects.filter(~Exists(reserved), pk__in=pks).delete()


def _derive_miners() -> None:
    """Rebuild the registration and the address of all miners from the history.

    Delete a miner that has no presence, no announced axon, no collateral and no account.
    """
    presence, axons = history.presence(), history.announced()
    horizon, nowhere = newest_block() - ledger.KEPT_BLOCKS, Miner()
    changed, unknown = [], []
    for hotkey, wei in Miner.objects.values_list("hotkey", "wei"):
        axon, steps = axons.get(hotkey), ledger.forget(presence[hotkey], horizon)
        where = axon or {"address": nowhere.address, "ip_version": nowhere.ip_version, "port": nowhere.port}
        changed.append((hotkey, steps, where["address"], where["ip_version"], where["port"]))
        if not steps and not axon and not wei:
            unknown.append(hotkey)
    rows.upsert(Miner, ["hotkey"], ["presence", "address", "ip_version", "port"], changed)
    for hotkeys in _batches(unknown):
        Miner.objects.filter(~Exists(Account.objects.filter(miner=OuterRef("pk"))), pk__in=hotkeys).delete()


def _batches(pks: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (pks[i : i + BATCH] for i in range(0, len(pks), BATCH))
