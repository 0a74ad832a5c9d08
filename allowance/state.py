"""What statements share: the names of tables, when a hold has ended, lists as parameters; and the usable blocks."""

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

# When a hold ends by itself is said here only: for SQL, where `r` is a reservation, for queries, and for a row at hand.
HELD = f"r.state = '{ReservationState.HELD.value}'"
EXPIRED_AT = "r.expires_at <= %(at)s"


def held_at(now: dt.datetime) -> Q:
    """Select the reservations that are live holds at `now`."""
    return Q(state=ReservationState.HELD, expires_at__gt=now)


def expired_at(now: dt.datetime) -> Q:
    """Select the reservations that expired by `now` and whose blocks nobody has tidied up yet."""
    return Q(state=ReservationState.HELD, expires_at__lte=now)


def state_at(reservation: Reservation, now: dt.datetime) -> ReservationState:
    """Return what has become of a reservation by `now`."""
    state = ReservationState(reservation.state)
    expired = state is ReservationState.HELD and reservation.expires_at <= now
    return ReservationState.EXPIRED if expired else state


def in_list(column: str, parameter: str, kind: str) -> str:
    """Return the SQL that tells whether a column is in a list of values of a kind, which `as_list` makes a parameter.

    As many values in the statement itself would take PostgreSQL longer to plan than to run it.
    """
    if connection.vendor == "postgresql":
        return f"{column} = ANY (CAST(%({parameter})s AS {kind}[]))"
    return f"{column} IN (SELECT value FROM json_each(%({parameter})s))"  # noqa: S608


def as_list(values: Iterable[int | str]) -> str:
    """Return numbers, or uuids as the database writes them, as the one parameter that `in_list` expects."""
    return f"{{{','.join(map(str, values))}}}" if connection.vendor == "postgresql" else json.dumps([*values])


_BLOCKS = f"""
    SELECT number, ns, (SELECT version FROM {CHAIN_LOCK}) FROM {BLOCK}
    WHERE number >= COALESCE(%(start)s, (SELECT MAX(number) FROM {BLOCK})) - %(expiry)s
      AND number >= (SELECT MAX(number) FROM {BLOCK}) - {KEPT_BLOCKS}
    ORDER BY number
"""  # noqa: S608 (only our tables' names are filled in)


Expired = Mapping[int, Sequence[int]]
"""Reservations that expired and whose rows do not say so yet: their blocks by their ids."""


def window(job_start_block: int | None, *, before: int = 0) -> Window:
    """Return the blocks that a job starting at `job_start_block` may use (left out: `before` the newest block)."""
    with connection.cursor() as cursor:
        cursor.execute(_BLOCKS, {"start": job_start_block, "expiry": BLOCK_EXPIRY + before})
        rows = cursor.fetchall()
    if not rows:
        return Window(max(0, (job_start_block or 0) - BLOCK_EXPIRY), np.zeros(1, dtype=np.int64), None)
    low, newest = rows[0][0], rows[-1][0]
    ns = np.zeros(newest - low + 1, dtype=np.int64)
    ns[[number - low for number, _, _ in rows]] = [earned or 0 for _, earned, _ in rows]
    return Window(low, ns, newest, rows[0][2])
