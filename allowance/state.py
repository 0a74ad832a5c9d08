"""Parts that SQL statements share: table names, tests for expiry, list parameters, and the blocks a job may use."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from django.db import connection
from django.db.models import Q

from allowance.ledger import KEPT_BLOCKS, Window
from allowance.models import Account, Block, ChainLock, Miner, Reservation, ReservationState
from allowance.types import BLOCK_EXPIRY

ACCOUNT, BLOCK, CHAIN_LOCK, MINER, RESERVATION = (
    connection.ops.quote_name(model._meta.db_table) for model in (Account, Block, ChainLock, Miner, Reservation)
)

# The only definition of expiry: for SQL, in which `r` is a reservation, for querysets, and for a single row.
HELD = f"r.state = '{ReservationState.HELD.value}'"
EXPIRED_AT = "r.expires_at <= %(at)s"


def held_at(now: dt.datetime) -> Q:
    """Return the filter for reservations that are held at `now` and have not expired."""
    return Q(state=ReservationState.HELD, expires_at__gt=now)


def expired_at(now: dt.datetime) -> Q:
    """Return the filter for reservations that expired by `now` and whose row still has the state held."""
    return Q(state=ReservationState.HELD, expires_at__lte=now)


def state_at(reservation: Reservation, now: dt.datetime) -> ReservationState:
    """Return the state of a reservation at `now`."""
    state = ReservationState(reservation.state)
    expired = state is ReservationState.HELD and reservation.expires_at <= now
    return ReservationState.EXPIRED if expired else state


def in_list(column: str, parameter: str, kind: str) -> str:
    """Return the SQL condition that a column is in a list, given as the parameter that `as_list` returns.

    `kind` is the type of the values in PostgreSQL. The values are one parameter, because PostgreSQL would take longer
    to plan a statement that contains all values than to run it.
    """
    if connection.vendor == "postgresql":
        return f"{column} = ANY (CAST(%({parameter})s AS {kind}[]))"
    return f"{column} IN (SELECT value FROM json_each(%({parameter})s))"  # noqa: S608


def as_list(values: Iterable[int | str]) -> str:
    """Return numbers, or UUIDs as the database writes them, as the single parameter that `in_list` expects."""
    return f"{{{','.join(map(str, values))}}}" if connection.vendor == "postgresql" else json.dumps([*values])


_BLOCKS = f"""
    SELECT number, ns, (SELECT version FROM {CHAIN_LOCK}) FROM {BLOCK}
    WHERE number >= COALESCE(%(start)s, (SELECT MAX(number) FROM {BLOCK})) - %(expiry)s
      AND number >= (SELECT MAX(number) FROM {BLOCK}) - {KEPT_BLOCKS}
    ORDER BY number
"""  # noqa: S608 (only our tables' names are filled in)


Expired = Mapping[int, Sequence[int]]
"""The blocks of reservations that expired and whose rows still have the state held, by reservation id."""


def window(job_start_block: int | None, *, before: int = 0) -> Window:
    """Return the blocks that a job starting at `job_start_block` may use (None: at the newest block).

    The window starts `before` blocks earlier.
    """
    with connection.cursor() as cursor:
        cursor.execute(_BLOCKS, {"start": job_start_block, "expiry": BLOCK_EXPIRY + before})
        rows = cursor.fetchall()
    if not rows:
        return Window(max(0, (job_start_block or 0) - BLOCK_EXPIRY), np.zeros(1, dtype=np.int64), None)
    low, newest = rows[0][0], rows[-1][0]
    ns = np.zeros(newest - low + 1, dtype=np.int64)
    ns[[number - low for number, _, _ in rows]] = [earned or 0 for _, earned, _ in rows]
    return Window(low, ns, newest, rows[0][2])
