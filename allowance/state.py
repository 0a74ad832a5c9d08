"""What a decision reads of the ledger, as values. In SQL, because here the ORM takes longer than the database."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
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

# An account with lapsed holds comes once for each of them. One statement, because it is one moment: by the time of a
# second one, another router may have tidied them up, and they would be missing in both.
_BALANCES = f"""
    SELECT m.hotkey, m.address, m.ip_version, m.port, m.wei, m.presence,
           a.executor_class, a.executors, a.counts, a.voided_before, a.base, a.held, a.spent, r.blocks
    FROM {ACCOUNT} a JOIN {MINER} m ON m.hotkey = a.miner_id
    LEFT JOIN {RESERVATION} r ON r.account_id = a.id AND {HELD} AND {LAPSED_AT}
    WHERE a.executor_class = %(executor_class)s
"""  # noqa: S608


class Lapsed(NamedTuple):
    """A reservation that lapsed and whose row does not say so yet."""

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


def balances(executor_class: str, now: dt.datetime) -> dict[str, Balance]:
    """Return the balances of a class by hotkey, with the blocks of holds that lapsed by `now` free.

    An unknown class has none.
    """
    if executor_class not in EXECUTOR_CLASSES:
        return {}
    parameters = {"executor_class": executor_class, "at": connection.ops.adapt_datetimefield_value(now)}
    found: dict[str, Balance] = {}
    with connection.cursor() as cursor:
        cursor.execute(_BALANCES, parameters)
        for *row, lapsed in cursor.fetchall():
            balance = found.get(row[0]) or _balance(row)
            found[row[0]] = balance if lapsed is None else ledger.free_again(balance, json.loads(lapsed))
    return found


def _balance(row: Sequence[Any]) -> Balance:
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
