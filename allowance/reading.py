"""The data of the ledger for a decision, as values: the blocks that a job may use, and the accounts of a class."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from django.db.models import QuerySet, Subquery, Value

from allowance import ledger
from allowance.fields import parse_steps
from allowance.ledger import KEPT_BLOCKS, Balance, Steps, Window
from allowance.models import Account, Block, ChainLock, Reservation, ReservationState
from allowance.plumbing.compiled import Compiled, parameter
from allowance.plumbing.transactions import NextTransaction, OldestRunning, ServerStart, ServerTime
from allowance.plumbing.union import Row, arm, union
from allowance.types import BLOCK_EXPIRY, EXECUTOR_CLASSES

ACCOUNT, HELD, SNAPSHOT = 0, 1, 2

CHAIN_VERSION = Subquery(ChainLock.objects.values("version"))
"""The version of the chain as a column of other rows, and so from the same snapshot."""


Expired = Mapping[int, Sequence[int]]
"""The blocks of reservations that expired and whose rows still have the state held, by reservation id."""


class Hold(NamedTuple):
    """A reservation that is neither spent nor released. It may have expired.

    `job` is the job's UUID as the database writes it. `bits` has the blocks: bit k is block `base + k` of its account.
    """

    pk: int
    job: str | None
    expires_at: dt.datetime
    blocks: list[int]
    bits: int


class Entry(NamedTuple):
    """An account at one version. Some of its `holds` may have expired: compare them with the clock."""

    pk: int
    version: int
    balance: Balance
    holds: tuple[Hold, ...]

    def holding(self, more: Iterable[Hold]) -> Entry:
        """Return the account with more reservations."""
        held, base = self.balance.held, self.balance.base
        added = [hold._replace(bits=ledger.to_bits(hold.blocks, base)) for hold in more]
        for hold in added:
            held |= hold.bits
        return self._replace(balance=self.balance._replace(held=held), holds=(*self.holds, *added))


class Whereabouts(NamedTuple):
    """The columns of a miner that its balances have too."""

    address: str
    ip_version: int
    port: int
    wei: int
    presence: Steps


class Chain(NamedTuple):
    """The data that follows from the chain, at one version of it: the usable blocks, and the miners of a class."""

    version: int | None
    window: Window
    miners: dict[str, Whereabouts]


NO_CHAIN = Chain(None, Window(0, np.zeros(1, dtype=np.int64), None), {})


def accounts(executor_class: Any, since: Any = None) -> QuerySet[Any, Any]:
    """Return the accounts of a class as an arm of a union; with `since`, those that changed since."""
    return arm(
        ACCOUNT,
        _accounts(executor_class, since),
        pk="id",
        key="miner_id",
        number="version",
        low="voided_before",
        base="base",
        amount="executors",
        held="held",
        spent="spent",
        text="counts",
    )


def _accounts(executor_class: Any, since: Any) -> QuerySet[Account]:
    rows = Account.objects.in_class(executor_class)
    return rows if since is None else rows.changed_since(since)


def holds(executor_class: Any, since: Any = None, *, over: Any) -> QuerySet[Any, Any]:
    """Return the held reservations of the accounts that `accounts` returns, as an arm of a union.

    `over` is when their jobs finished.
    """
    rows = Reservation.objects.filter(state=ReservationState.HELD, account__in=_accounts(executor_class, since))
    return arm(
        HELD,
        rows,
        key="account__miner_id",
        job="job_uuid",
        number="id",
        until="expires_at",
        over=over,
        text="blocks",
    )


def snapshot() -> QuerySet[Any, Any]:
    """Return the version of the chain and the numbers of the snapshot as an arm of a union.

    The columns are `number` (the version), `low` and `base` (the oldest running and the next transaction), `at` (the
    start of the server), and `until` (its time).
    """
    numbers = {"number": "version", "low": OldestRunning(), "base": NextTransaction()}
    return arm(SNAPSHOT, ChainLock.objects.all(), **numbers, at=ServerStart(), until=ServerTime())


class Reading(NamedTuple):
    """The data of the ledger for one executor class. All fields except the window are by hotkey.

    In the `balances`, the blocks of expired reservations are free. `holds` are the reservations that are still held.
    """

    window: Window
    balances: dict[str, Balance]
    holds: dict[str, list[Hold]]


def read(executor_class: str, now: dt.datetime) -> Reading:
    """Return the data of the ledger for a class at `now`, from one snapshot. An unknown class has no balances.

    A pick reads this data through routing.decision.reading, which remembers it.
    """
    known = executor_class if executor_class in EXECUTOR_CLASSES else ""
    while True:
        chain = read_chain(known)
        rows = [*map(Row._make, union(accounts(known), holds(known, over=None), snapshot()))]
        if all(row.kind != SNAPSHOT or row.number == chain.version for row in rows):
            break  # else the chain has changed between the statements
    found = Reading(chain.window, {}, {})
    for hotkey, entry in entries(rows, {}, chain.miners, known).items():
        balance, expired = free_expired(entry, now)
        found.balances[hotkey] = balance
        if live := [hold for hold in entry.holds if hold.pk not in expired]:
            found.holds[hotkey] = live
    return found


def free_expired(entry: Entry, now: dt.datetime) -> tuple[Balance, dict[int, list[int]]]:
    """Return the balance of an account with the blocks that expired by `now` free, and these by reservation id."""
    balance, expired = entry.balance, {}
    for hold in entry.holds:
        if hold.expires_at <= now:
            expired[hold.pk] = hold.blocks
            balance = balance._replace(held=balance.held & ~hold.bits)
    return balance, expired


def read_chain(executor_class: str) -> Chain:
    """Return the usable blocks and the miners that have accounts in a class, at one version of the chain."""
    while True:
        # An empty window has no version. Then the miners must have the version that was read before the window.
        before = ChainLock.objects.values_list("version", flat=True).first()
        usable = window(None)
        at = before if usable.newest is None else usable.version
        found = MINERS.fetch(executor_class=executor_class)
        if all(row[0] == at for row in found):  # else the chain has changed between the two statements
            return Chain(at, usable, {hotkey: Whereabouts(*where) for _, hotkey, *where in found})


def _miners() -> QuerySet[Account, Any]:
    columns = ("miner_id", "miner__address", "miner__ip_version", "miner__port", "miner__wei", "miner__presence")
    accounts = Account.objects.in_class(parameter(Account, "executor_class"))
    return accounts.values_list(CHAIN_VERSION, *columns)


MINERS = Compiled(_miners)
"""The statement that reads the miners of a class, each with the version of the chain."""


def entries(
    rows: Iterable[Row], known: Mapping[str, Entry], miners: Mapping[str, Whereabouts], executor_class: str
) -> dict[str, Entry]:
    """Return the accounts in rows of `accounts` and `holds`, by hotkey. Those at a `known` version stay as they are."""
    of_account: dict[str, Row] = {}
    held: dict[str, list[Row]] = {}
    for row in rows:
        if row.kind == ACCOUNT:
            of_account[row.key or ""] = row
        elif row.kind == HELD:
            held.setdefault(row.key or "", []).append(row)
    found = {}
    for hotkey, row in of_account.items():
        before = known.get(hotkey)
        if before is not None and before.version == row.number:
            found[hotkey] = before
        elif hotkey in miners:
            found[hotkey] = _entry(row, held.get(hotkey, ()), miners[hotkey], executor_class)
    return found


def _entry(row: Row, held: Iterable[Row], where: Whereabouts, executor_class: str) -> Entry:
    base = row.base or 0
    balance = Balance(
        hotkey=row.key or "",
        address=where.address,
        ip_version=where.ip_version,
        port=where.port,
        wei=where.wei,
        presence=where.presence,
        executor_class=executor_class,
        executors=row.amount or 0,
        counts=parse_steps(row.text or "[]"),
        voided_before=row.low or 0,
        base=base,
        held=row.held or 0,
        spent=row.spent or 0,
    )
    found = []
    for each in held:
        blocks = json.loads(each.text or "[]")
        found.append(Hold(each.number or 0, each.job, each.until, blocks, ledger.to_bits(blocks, base)))  # type: ignore[arg-type]
    return Entry(row.pk or 0, row.number or 0, balance, tuple(found))


def moved(entry: Entry, where: Whereabouts) -> Entry:
    """Return an entry with the columns of the miner as they are now. If they are as before, it is the same object."""
    balance = entry.balance
    if where == (balance.address, balance.ip_version, balance.port, balance.wei, balance.presence):
        return entry
    return entry._replace(balance=entry.balance._replace(**where._asdict()))


def window(job_start_block: int | None, *, before: int = 0) -> Window:
    """Return the blocks that a job starting at `job_start_block` may use (None: at the newest block).

    The window starts `before` blocks earlier.
    """
    rows = NEWEST_BLOCKS.fetch() if job_start_block is None and not before else [*_blocks(job_start_block, before)]
    if not rows:
        return Window(max(0, (job_start_block or 0) - BLOCK_EXPIRY), np.zeros(1, dtype=np.int64), None)
    low, newest_number = rows[0][0], rows[-1][0]
    ns = np.zeros(newest_number - low + 1, dtype=np.int64)
    ns[[number - low for number, _, _ in rows]] = [earned or 0 for _, earned, _ in rows]
    return Window(low, ns, newest_number, rows[0][2])


def _blocks(job_start_block: int | None, before: int) -> QuerySet[Block, tuple[int, int | None, int | None]]:
    newest = Subquery(Block.objects.order_by("-number").values("number")[:1])
    start = newest if job_start_block is None else Value(job_start_block)
    usable = Block.objects.filter(number__gte=newest - KEPT_BLOCKS).filter(number__gte=start - (BLOCK_EXPIRY + before))
    return usable.order_by("number").values_list("number", "ns", CHAIN_VERSION)


NEWEST_BLOCKS = Compiled(lambda: _blocks(None, 0))
"""The statement that reads the blocks usable at the newest block, each with the version of the chain."""
