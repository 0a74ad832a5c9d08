"""Take blocks back that were recorded by mistake, and all that followed from them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Exists, F, OuterRef, QuerySet
from django.utils import timezone

from allowance import history, ledger
from allowance.chain import newest_block, upsert
from allowance.locks import chain_changed, ledger_transaction, lock_accounts_of, lock_chain
from allowance.models import Account, Block, ManifestSync, Miner, Reservation, ReservationState
from allowance.state import state_at
from allowance.types import BlocksInUse

BATCH = 1000


@dataclass(slots=True)
class Forgotten:
    """What is forgotten: how many blocks and manifest syncs; and the ids of reservations that use such blocks.

    Those `held` are released, those `lapsed` are noted as such; `spent` ones stand in the way.
    """

    first: int
    blocks: int
    syncs: int
    held: list[int] = field(default_factory=list)
    lapsed: list[int] = field(default_factory=list)
    spent: list[int] = field(default_factory=list)
    spent_up_to: int | None = None

    def refusal(self, *, release_held: bool) -> BlocksInUse | None:
        """Return the error that says which reservations stand in the way, None if none do."""
        if self.spent or (self.held and not release_held):
            return BlocksInUse(self.first, held=self.held, spent=self.spent, spent_up_to=self.spent_up_to)
        return None


def find(first: int, *, now: dt.datetime | None = None) -> Forgotten:
    """Return what would be forgotten, and which reservations would stand in the way. Writes and locks nothing."""
    found = Forgotten(
        first,
        Block.objects.filter(number__gte=first).count(),
        ManifestSync.objects.filter(block__gte=first).count(),
    )
    at = now or timezone.now()
    ends = {ReservationState.HELD: found.held, ReservationState.LAPSED: found.lapsed}
    for reservation in _holding().only("state", "expires_at", "blocks").iterator():
        newest = max(reservation.blocks)
        if newest < first:
            continue
        state = state_at(reservation, at)
        if state is ReservationState.SPENT:
            found.spent_up_to = max(newest, found.spent_up_to or 0)
        ends.get(state, found.spent).append(reservation.pk)
    return found


def forget_blocks(first: int, *, release_held: bool = False, now: dt.datetime | None = None) -> Forgotten:
    """Forget the blocks from number `first` on, and the manifest syncs at them with their drops.

    Blocks may be recorded again afterwards. Raises BlocksInUse if a spent reservation uses such a block, or a live one,
    unless `release_held`; nothing is changed then. Raises LockTimeout if others keep the ledger locked.
    """
    with ledger_transaction():
        lock_chain()
        chain_changed()
        lock_accounts_of(set(Account.objects.values_list("miner", flat=True)))
        at = now or timezone.now()
        found = find(first, now=at)
        if refusal := found.refusal(release_held=release_held):
            raise refusal
        for pks in _batches(found.lapsed):
            Reservation.objects.filter(pk__in=pks).update(state=ReservationState.LAPSED, ended_at=F("expires_at"))
        for pks in _batches(found.held):
            Reservation.objects.filter(pk__in=pks).update(state=ReservationState.RELEASED, ended_at=at)
        ManifestSync.objects.filter(block__gte=first).delete()
        Block.objects.filter(number__gte=first).delete()
        Block.objects.filter(number=first - 1).update(ns=None)
        _derive_accounts()
        _derive_miners()
    return found


def _derive_accounts() -> None:
    """Let all accounts be what the history says. Those that it does not know are deleted."""
    declared, newest = history.declared(), newest_block()
    accounts = {(a.miner_id, a.executor_class): a for a in Account.objects.all()}
    known = {account.pk: account for account in accounts.values()}
    horizon = newest - ledger.KEPT_BLOCKS
    for key, account in accounts.items():
        account.executors, account.voided_before, counts = declared.get(key, history.NOTHING_DECLARED)
        account.counts = ledger.forget(counts, horizon)
        account.base, account.held, account.spent = min(account.base, max(0, horizon)), 0, 0
    for reservation in _holding().iterator():
        account = known[reservation.account_id]
        bits = ledger.to_bits(reservation.blocks, account.base)
        if reservation.state == ReservationState.SPENT:
            account.spent |= bits
        else:
            account.held |= bits
    fields = ["executors", "voided_before", "counts", "base", "held", "spent"]
    upsert(list(accounts.values()), ["executor_class", "miner"], fields)
    reserved = Reservation.objects.filter(account=OuterRef("pk"))
    unknown = [account.pk for key, account in accounts.items() if key not in declared]
    for pks in _batches(unknown):
        Account.objects.filter(~Exists(reserved), pk__in=pks).delete()


def _derive_miners() -> None:
    """Let all miners be registered and listen as the history says. Those of which nothing is known are deleted."""
    presence, axons = history.presence(), history.announced()
    horizon = newest_block() - ledger.KEPT_BLOCKS
    nowhere = Miner()
    miners = list(Miner.objects.all())
    for miner in miners:
        axon = axons.get(miner.hotkey, {})
        miner.presence = ledger.forget(presence[miner.hotkey], horizon)
        miner.address = str(axon.get("address", nowhere.address))
        miner.ip_version = int(axon.get("ip_version", nowhere.ip_version))
        miner.port = int(axon.get("port", nowhere.port))
    upsert(miners, ["hotkey"], ["presence", "address", "ip_version", "port"])
    unknown = [m.pk for m in miners if not m.presence and m.pk not in axons and not m.wei]
    for pks in _batches(unknown):
        Miner.objects.filter(~Exists(Account.objects.filter(miner=OuterRef("pk"))), pk__in=pks).delete()


def _holding() -> QuerySet[Reservation]:
    """Return the reservations whose blocks are neither free nor noted as free."""
    return Reservation.objects.filter(state__in=[ReservationState.HELD, ReservationState.SPENT])


def _batches(pks: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (pks[i : i + BATCH] for i in range(0, len(pks), BATCH))
