"""The data of the ledger for a decision, as values. Unchanged accounts come from memory.

Each account and the chain have a version, which is drawn anew with each change that a reservation depends on. A process
sends the database the versions that it remembers. One statement, and so one snapshot, returns all accounts that have
changed. Processes therefore need no messages from each other: each reading contains all that others have committed.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from django.db import connection
from django.utils.timezone import make_aware

from allowance import ledger
from allowance.fields import parse_steps
from allowance.ledger import Balance, Window
from allowance.state import ACCOUNT, CHAIN_LOCK, HELD, MINER, RESERVATION, as_list, in_list, window
from allowance.types import EXECUTOR_CLASSES

# Each changed account has one row for each of its held reservations, or one row without any. If no account has changed,
# the only row has the chain's version. PostgreSQL estimates that few rows pass the CASE, which is true, and so joins
# the other tables by their indexes.
CHANGED = f"""
    SELECT l.version, m.hotkey, m.address, m.ip_version, m.port, m.wei, m.presence,
           a.version, a.executors, a.counts, a.voided_before, a.base, a.held, a.spent,
           r.id, CAST(r.job_uuid AS text), r.expires_at, r.blocks
    FROM {CHAIN_LOCK} l
    LEFT JOIN {ACCOUNT} a
        ON a.executor_class = %(executor_class)s
        AND CASE WHEN {in_list("a.version", "known", "bigint")} THEN 0 ELSE 1 END = 1
    LEFT JOIN {MINER} m ON m.hotkey = a.miner_id
    LEFT JOIN {RESERVATION} r ON r.account_id = a.id AND {HELD}
"""  # noqa: S608


class Hold(NamedTuple):
    """A reservation that is neither spent nor released. `job` is the job's UUID as the database writes it.

    `bits` are its blocks as a set that counts from the base of its account.
    """

    pk: int
    job: str | None
    expires_at: dt.datetime
    blocks: list[int]
    bits: int


class Entry(NamedTuple):
    """An account at one version. Some of its `holds` may have expired: compare them with the clock."""

    version: int
    balance: Balance
    holds: tuple[Hold, ...]


class Reading(NamedTuple):
    """The data of the ledger for one executor class. All fields except the window are by hotkey.

    In the `balances`, the blocks of `expired` reservations are free. `holds` are the reservations that are still held.
    `expired` and `holds` leave out miners without any.
    """

    window: Window
    balances: dict[str, Balance]
    entries: Mapping[str, Entry]
    holds: dict[str, list[Hold]]
    expired: dict[str, dict[int, list[int]]]


class Memory(NamedTuple):
    """The data of a class that this process remembers, at one version of the chain. `entries` are by hotkey."""

    chain_version: int
    window: Window
    entries: dict[str, Entry]


_memory: dict[str, Memory] = {}


def read(executor_class: str, now: dt.datetime) -> Reading:
    """Return the data of the ledger for a class. The blocks of reservations that expired by `now` are free.

    It takes one statement, or three if the chain has changed. An unknown class has no balances.
    """
    if executor_class not in EXECUTOR_CLASSES:
        return Reading(window(None), {}, {}, {}, {})
    usable, entries = _recall(executor_class)
    found = Reading(usable, {hotkey: entry.balance for hotkey, entry in entries.items()}, entries, {}, {})
    for hotkey, entry in entries.items():
        for hold in entry.holds:
            if hold.expires_at > now:
                found.holds.setdefault(hotkey, []).append(hold)
            else:
                found.expired.setdefault(hotkey, {})[hold.pk] = hold.blocks
                balance = found.balances[hotkey]
                found.balances[hotkey] = balance._replace(held=balance.held & ~hold.bits)
    return found


def _recall(executor_class: str) -> tuple[Window, dict[str, Entry]]:
    """Return the window and the accounts of a class as they are now, and remember them.

    Other threads may replace the remembered values meanwhile. The returned values are still of one moment.
    """
    memory = _memory.get(executor_class)
    if memory is not None:
        chain_version, changed = _select(executor_class, memory.entries)
        if chain_version == memory.chain_version:
            entries = {**memory.entries, **changed}
            _memory[executor_class] = memory._replace(entries=entries)
            return memory.window, entries
    while True:
        chain_version, entries = _select(executor_class, {})
        usable = window(None)
        if usable.newest is None or usable.version == chain_version:
            break  # else the chain has changed between the two statements
    if chain_version is not None:
        _memory[executor_class] = Memory(chain_version, usable, entries)
    return usable, entries


def asked(executor_class: str, known: Iterable[int]) -> dict[str, str]:
    """Return the parameters of CHANGED: a class, and the `known` versions of its accounts."""
    return {"executor_class": executor_class, "known": as_list(known)}


def _select(executor_class: str, known: Mapping[str, Entry]) -> tuple[int | None, dict[str, Entry]]:
    """Return the chain's version (None: nothing was ever recorded) and the accounts whose version is not `known`."""
    with connection.cursor() as cursor:
        cursor.execute(CHANGED, asked(executor_class, [entry.version for entry in known.values()]))
        rows: list[Sequence[Any]] = cursor.fetchall()
    rows_of: dict[str, list[Sequence[Any]]] = {}
    for row in rows:
        if row[1] is not None:
            rows_of.setdefault(row[1], []).append(row)
    return rows[0][0] if rows else None, {hotkey: _entry(executor_class, own) for hotkey, own in rows_of.items()}


def _entry(executor_class: str, rows: Sequence[Sequence[Any]]) -> Entry:
    hotkey, address, ip_version, port, wei, presence, *of_account = rows[0][1:14]
    version, executors, counts, voided, base, held, spent = of_account
    balance = Balance(
        hotkey=hotkey,
        address=address,
        ip_version=ip_version,
        port=port,
        wei=int(wei),
        presence=parse_steps(presence),
        executor_class=executor_class,
        executors=executors,
        counts=parse_steps(counts),
        voided_before=voided,
        base=base,
        held=int.from_bytes(held, "little"),
        spent=int.from_bytes(spent, "little"),
    )
    holds = []
    for pk, job, expires_at, blocks in (row[14:] for row in rows if row[14] is not None):
        until = expires_at if expires_at.tzinfo else make_aware(expires_at, connection.timezone)  # SQLite has no zone
        numbers = json.loads(blocks)
        holds.append(Hold(pk, job, until, numbers, ledger.to_bits(numbers, base)))
    return Entry(version, balance, tuple(holds))
