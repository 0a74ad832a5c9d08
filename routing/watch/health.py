"""Whether the router can work: whether its database and its channel layer answer in time."""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple

from channels.layers import get_channel_layer
from django import db
from django.db.models import Count
from redis.exceptions import RedisError

from allowance.interface import Block, Reservation, ReservationState, clock, expired_at
from allowance.plumbing.threads import in_database_thread
from routing.watch.followed import Followed, read_followed

PATIENCE = 2.0
"""Maximum time (s) to wait for the database, and for the channel layer."""

OK = "ok"
NO_ANSWER = "It does not answer."

logger = logging.getLogger(__name__)


class Ledger(NamedTuple):
    """The newest block, its age (s), the number of live reservations, and the number of expired ones not tidied yet.

    `followed` is what the chain follower has stored.
    """

    block: int | None
    age: float | None
    live: int
    expired: int
    followed: Followed


class Database:
    """A query of the database that concurrent callers share.

    A database that hangs therefore blocks one thread of the pool, not one for each probe.
    """

    def __init__(self) -> None:
        self._asked: asyncio.Future[Ledger | None] | None = None
        self._begun = False

    async def ledger(self) -> tuple[Ledger | None, str]:
        """Return the current state of the ledger and OK, or None and why there is no answer.

        The reason has no details, because it is public.
        """
        if self._asked is None or self._asked.done() or self._asked.get_loop() is not asyncio.get_running_loop():
            self._begun = False
            self._asked = asyncio.ensure_future(in_database_thread(self._read)())
        try:
            async with asyncio.timeout(PATIENCE):
                ledger = await asyncio.shield(self._asked)
        except TimeoutError:
            return None, NO_ANSWER if self._begun else "All threads of the router are busy."
        return ledger, OK if ledger else "It can't be read; the log says why."

    def _read(self) -> Ledger | None:
        self._begun = True
        try:
            return read_ledger()
        except db.Error:  # logged here, because no caller may be left to log it
            logger.exception("The database can't be read.")
            return None


database = Database()


def read_ledger() -> Ledger:
    """Return the current state of the ledger."""
    now = clock.now()
    newest = Block.objects.order_by("-number").first()
    held = Reservation.objects.filter(state=ReservationState.HELD)
    counts = held.aggregate(held=Count("pk"), expired=Count("pk", filter=expired_at(now)))
    number, age = (newest.number, (now - newest.timestamp).total_seconds()) if newest else (None, None)
    return Ledger(number, age, counts["held"] - counts["expired"], counts["expired"], read_followed(now))


async def channel_layer() -> str:
    """Send a message to an empty group over the channel layer. Return OK, or why that failed."""
    layer = get_channel_layer()
    try:
        async with asyncio.timeout(PATIENCE):
            if layer:
                await layer.group_send("nobody", {"type": "are.you.there"})
    except TimeoutError:
        return NO_ANSWER
    except (OSError, RedisError) as error:
        logger.warning("The channel layer can't be reached: %s", error)
        return "It can't be reached; the log says why."
    return OK
