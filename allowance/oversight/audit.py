"""Recompute the derived values of the ledger from its history, and report the differences."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from django.db.models import QuerySet

from allowance import clock, ledger
from allowance.chain import newest_block, ns_between
from allowance.ledger import Balance, Window
from allowance.locks import (
    chain_changed,
    ledger_transaction,
    lock_account,
    lock_accounts_of,
    lock_chain,
    reading_transaction,
)
from allowance.models import (
    Account,
    Block,
    LedgerCheck,
    Miner,
    Reservation,
    ReservationState,
    new_version,
)
from allowance.oversight import history
from allowance.plumbing.connections import renew_connection
from allowance.reading import window
from allowance.reservations import store_locked
from allowance.types import BLOCK_EXPIRY

KEPT_BEFORE = ledger.KEPT_BLOCKS - BLOCK_EXPIRY
"""The maximum duration of a job, in blocks. A window that starts this much earlier has all blocks of the balances."""

EXAMPLES = 50
"""The maximum number of differences that a check stores as text. The total number is stored too."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A value stored in the ledger, and the value that history requires instead."""

    subject: str
    field: str
    stored: str
    expected: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.field} is {self.stored}, history requires {self.expected}"


def run_check(*, repair: bool = False) -> tuple[LedgerCheck, list[Difference]]:
    """Check the ledger. Return the result, which is not saved yet, and all differences.

    With `repair`, check again after the repair. Then `left` of the result is the number of differences that remain.
    """
    at, begun = clock.now(), time.perf_counter()
    found = list(check_ledger(repair=repair))
    left = list(check_ledger()) if repair else found
    renew_connection()
    check = LedgerCheck(
        at=at,
        seconds=time.perf_counter() - begun,
        accounts=Account.objects.count(),
        reservations=Reservation.objects.count(),
        differences=len(found),
        left=len(left),
        repaired=repair,
        examples=[str(difference) for difference in found[:EXAMPLES]],
    )
    return check, found


def check_ledger(*, repair: bool = False) -> Iterator[Difference]:
    """Yield the differences between the ledger and its history. With `repair`, rewrite the derived values.

    The values that derive from the chain are compared under the chain lock. All accounts are then compared without
    locks. Accounts that seem to differ are compared again, each under its own lock, so that routing can continue.
    Reservations of one account that use the same block are reported, but `repair` does not separate them.
    """
    renew_connection()
    with ledger_transaction():
        lock_chain()
        if repair:
            chain_changed()
        found = [*_check_blocks(repair), *_check_presence(repair), *_check_declared(repair)]
    yield from found
    renew_connection()
    accounts = Account.objects.select_related("miner").in_bulk()
    usable = window(None, before=KEPT_BEFORE)
    hints = set()  # only hints: accounts and reservations can change between the two queries
    with reading_transaction():
        for pk, live in groupby(live_reservations().iterator(), key=lambda reservation: reservation.account_id):
            account = accounts.pop(pk, None)
            if account is None or compare(account, live, usable)[0]:
                hints.add(pk)
    hints |= {pk for pk, account in accounts.items() if compare(account, (), usable)[0]}
    for pk in sorted(hints):
        renew_connection()
        yield from _check_account(pk, repair)


def _check_blocks(repair: bool) -> Iterator[Difference]:
    block: Block | None = None
    for successor in Block.objects.order_by("number").iterator():
        if block is not None:
            expected = ns_between(block, successor) if successor.number == block.number + 1 else None
            yield from _check_ns(block, expected, repair)
        block = successor
    if block is not None:
        yield from _check_ns(block, None, repair)


def _check_ns(block: Block, expected: int | None, repair: bool) -> Iterator[Difference]:
    if block.ns != expected:
        yield Difference(str(block), "ns", str(block.ns), str(expected))
        if repair:
            Block.objects.filter(pk=block.pk).update(ns=expected)


def _check_presence(repair: bool) -> Iterator[Difference]:
    expected = history.presence()
    horizon = newest_block() - ledger.KEPT_BLOCKS
    for miner in Miner.objects.iterator():
        stored, should = (ledger.forget(steps, horizon) for steps in (miner.presence, expected[miner.hotkey]))
        if stored != should:
            yield Difference(f"Miner {miner}", "presence", str(stored), str(should))
            if repair:
                lock_accounts_of([miner.pk])
                Miner.objects.filter(pk=miner.pk).update(presence=should)


def _check_declared(repair: bool) -> Iterator[Difference]:
    """Compare the executors, the voiding and the counts of all accounts with the manifest syncs."""
    accounts = {(a.miner_id, a.executor_class): a for a in Account.objects.all()}
    expected = dict.fromkeys(accounts, history.NOTHING_DECLARED) | history.declared()
    horizon = newest_block() - ledger.KEPT_BLOCKS
    for (miner, executor_class), (executors, voided_before, counts) in sorted(expected.items()):
        account = accounts.get((miner, executor_class)) or Account(miner_id=miner, executor_class=executor_class)
        stored = (account.executors, account.voided_before, ledger.forget(account.counts, horizon))
        should = (executors, voided_before, ledger.forget(counts, horizon))
        if stored != should:
            yield Difference(
                f"Account {account}",
                "executors, voided before, counts",
                str(stored),
                str(should),
            )
            if repair:
                account.executors, account.voided_before, account.counts = should
                account.version = new_version()
                fields = ["executors", "voided_before", "counts", "version", "changed"]
                account.save(update_fields=fields if account.pk else None)


def _check_account(pk: int, repair: bool) -> list[Difference]:
    with ledger_transaction():
        account = lock_account(pk=pk)
        if account is None:
            return []
        live = live_reservations().filter(account=account)
        found, balance = compare(account, live, window(None, before=KEPT_BEFORE))
        if repair:
            store_locked(account, balance)
        return found


def live_reservations() -> QuerySet[Reservation]:
    """Return the reservations that are stored as held or spent, by account. A held one may have expired."""
    return Reservation.objects.filter(state__in=[ReservationState.HELD, ReservationState.SPENT]).order_by(
        "account", "created_at", "pk"
    )


def compare(account: Account, live: Iterable[Reservation], usable: Window) -> tuple[list[Difference], Balance]:
    """Compare an account with its held and spent reservations. Return the differences, and the correct balance."""
    found: list[Difference] = []
    base = min(account.base, max(0, (usable.newest or 0) - ledger.KEPT_BLOCKS))
    if base != account.base:
        found.append(Difference(f"Account {account}", "base", str(account.base), f"at most {base}"))
    owners: dict[int, int] = {}
    expected = {ReservationState.HELD: 0, ReservationState.SPENT: 0}
    for reservation in live:
        for block in reservation.blocks:
            owner = owners.setdefault(block, reservation.pk)
            if owner != reservation.pk:
                found.append(
                    Difference(str(reservation), f"block {block}", f"also in reservation {owner}", "one reservation")
                )
        expected[ReservationState(reservation.state)] |= ledger.to_bits(reservation.blocks, base)
    for state, should in expected.items():
        says = account.held if state is ReservationState.HELD else account.spent
        if says << account.base - base != should:
            blocks = str(ledger.to_blocks(says, account.base)), str(ledger.to_blocks(should, base))
            found.append(Difference(f"Account {account}", state.value, *blocks))
    if both := account.held & account.spent:
        named = str(ledger.to_blocks(both, account.base))
        found.append(Difference(f"Account {account}", "held and spent", named, "[]"))
    held, spent = expected[ReservationState.HELD], expected[ReservationState.SPENT]
    return found, account.balance._replace(base=base, held=held, spent=spent)
