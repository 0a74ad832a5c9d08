"""What a decision reads of the ledger, as values. In SQL, because here the ORM takes longer than the database."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from django.db import connection
from django.db.models import Q

from allowance import ledger
from allowance.fields import parse_steps
from allowance.ledger import KEPT_BLOCKS, Balance, Window
from allowance.models import Account, Block, Miner, Reservation, ReservationState
from allowance.types import BLOCK_EXPIRY, EXECUTOR_CLASSES

ACCOUNT, BLOCK, MINER, RESERVATION = (
    connection.ops.quote_name(model._meta.db_table) for model in (Account, Block, Miner, Reservation)
)

# When a hold ends by itself is said here only: for SQL, where `r` is a reservation, for queries, and for a row at hand.
HELD = f"r.state = '{ReservationState.HELD.value}'"
LAPSED_AT = "r.expires_at <= %(at)s"


def held_at(now: dt.datetime) -> Q:
    """Select the reservations that are live holds at `now`."""
    return Q(state=ReservationState.HELD, expires_at__gt=now)


def lapsed_at(now: dt.datetime) -> Q:
    """Select the reservations that lapsed by `now` and whose blocks nobody has tidied up yet."""
    return Q(state=ReservationState.HELD, expires_at__lte=now)


def state_at(reservation: Reservation, now: dt.datetime) -> ReservationState:
    """Return what has become of a reservation by `now`."""
    state = ReservationState(reservation.state)
    lapsed = state is ReservationState.HELD and reservation.expires_at <= now
    return ReservationState.LAPSED if lapsed else state


_BLOCKS = f"""
    SELECT number, ns FROM {BLOCK}
    WHERE number >= COALESCE(%(start)s, (SELECT MAX(number) FROM {BLOCK})) - %(expiry)s
      AND number >= (SELECT MAX(number) FROM {BLOCK}) - {KEPT_BLOCKS}
    ORDER BY number
"""  # noqa: S608 (only our tables' names are filled in)

_BALANCES = f"""
    SELECT m.hotkey, m.address, m.ip_version, m.port, m.wei, m.presence,
           a.executor_class, a.executors, a.counts, a.voided_before, a.base, a.held, a.spent
    FROM {ACCOUNT} a JOIN {MINER} m ON m.hotkey = a.miner_id
    WHERE a.executor_class = %(executor_class)s
"""  # noqa: S608

_LAPSED = f"""
    SELECT a.miner_id, r.id, r.blocks
    FROM {RESERVATION} r JOIN {ACCOUNT} a ON a.id = r.account_id
    WHERE {HELD} AND {LAPSED_AT} AND a.executor_class = %(executor_class)s
"""  # noqa: S608


class Lapsed(NamedTuple):
    """A reservation that lapsed and whose row does not say so yet."""

    miner: str
    pk: int
    blocks: list[int]


def window(job_start_block: int | None, *, before: int = 0) -> Window:
    """Return the blocks that a job starting at `job_start_block` may use (left out: `before` the newest block)."""
    with connection.cursor() as cursor:
        cursor.execute(_BLOCKS, {"start": job_start_block, "expiry": BLOCK_EXPIRY + before})
        rows = cursor.fetchall()
    if not rows:
        return Window(max(0, (job_start_block or 0) - BLOCK_EXPIRY), np.zeros(1, dtype=np.int64), None)
    low, newest = rows[0][0], rows[-1][0]
    ns = np.zeros(newest - low + 1, dtype=np.int64)
    ns[[number - low for number, _ in rows]] = [earned or 0 for _, earned in rows]
    return Window(low, ns, newest)


def balances(executor_class: str) -> dict[str, Balance]:
    """Return the balances of a class as they are stored, by hotkey; an unknown class has none.

    The blocks of reservations that have lapsed are not yet free in them; see `without`.
    """
    if executor_class not in EXECUTOR_CLASSES:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(_BALANCES, {"executor_class": executor_class})
        return {row[0]: _balance(row) for row in cursor.fetchall()}


def without(stored: dict[str, Balance], lapsed: Iterable[Lapsed]) -> dict[str, Balance]:
    """Return the balances of a class with the blocks of lapsed reservations free."""
    current = dict(stored)
    for miner, _, blocks in lapsed:
        if miner in current:
            current[miner] = ledger.free_again(current[miner], blocks)
    return current


def lapsed(executor_class: str, now: dt.datetime) -> list[Lapsed]:
    """Return the reservations of a class that have lapsed by `now` and that nobody has tidied up."""
    if executor_class not in EXECUTOR_CLASSES:
        return []
    at = connection.ops.adapt_datetimefield_value(now)
    with connection.cursor() as cursor:
        cursor.execute(_LAPSED, {"executor_class": executor_class, "at": at})
        return [Lapsed(miner, pk, json.loads(blocks)) for miner, pk, blocks in cursor.fetchall()]


def _balance(row: tuple[Any, ...]) -> Balance:
    hotkey, address, ip_version, port, wei, presence, executor_class, executors, counts, voided, base, held, spent = row
    return Balance(
        hotkey,
        address,
        ip_version,
        port,
        int(wei),
        parse_steps(presence),
        executor_class,
        executors,
        parse_steps(counts),
        voided,
        base,
        int.from_bytes(held, "little"),
        int.from_bytes(spent, "little"),
    )
