"""Whether the router can do its work: what its database and its channel layer answer, if they do so in time."""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple

from channels.layers import get_channel_layer
from django import db
from django.db import connection
from django.utils import timezone
from redis.exceptions import RedisError

from allowance.interface import EXPIRED_AT, HELD, RESERVATION, Block
from allowance.plumbing.threads import in_database_thread

PATIENCE = 2.0
"""Seconds that each of them has."""

OK = "ok"

HOLDS = f"SELECT COUNT(*), COUNT(CASE WHEN {EXPIRED_AT} THEN 1 END) FROM {RESERVATION} r WHERE {HELD}"  # noqa: S608

logger = logging.getLogger(__name__)


class Ledger(NamedTuple):
    """The newest block and its age in seconds; the reservations that are live, and the expired ones not tidied yet."""

    block: int | None
    age: float | None
    live: int
    expired: int


class NoAnswer(Exception):
    """Say why there is no answer, and nothing of what lies behind it: anybody may read that."""


class Database:
    """Ask the database once for all who want to know before it has answered.

    So a database that hangs keeps one thread of the pool, and not one more with every probe.
    """

    def __init__(self) -> None:
        self._asked: asyncio.Future[Ledger | None] | None = None
        self._begun = False

    async def ledger(self) -> Ledger:
        """Return what the ledger says now. Raises NoAnswer."""
        if self._asked is None or self._asked.done() or self._asked.get_loop() is not asyncio.get_running_loop():
            self._begun = False
            self._asked = asyncio.ensure_future(in_database_thread(self._read)())
        try:
            async with asyncio.timeout(PATIENCE):
                ledger = await asyncio.shield(self._asked)
        except TimeoutError:
            raise NoAnswer("It does not answer." if self._begun else "All threads of the router are busy.") from None
        if ledger is None:
            raise NoAnswer("It can't be read; the log says why.")
        return ledger

    def _read(self) -> Ledger | None:
        self._begun = True
        try:
            return read_ledger()
        except db.Error:  # logged here, because by now there may be nobody left to tell
            logger.exception("The database can't be read.")
            return None


database = Database()


def read_ledger() -> Ledger:
    """Return what the ledger says now."""
    now = timezone.now()
    newest = Block.objects.order_by("-number").first()
    with connection.cursor() as cursor:
        cursor.execute(HOLDS, {"at": connection.ops.adapt_datetimefield_value(now)})
        held, expired = cursor.fetchone()
    number, age = (newest.number, (now - newest.timestamp).total_seconds()) if newest else (None, None)
    return Ledger(number, age, held - expired, expired)


async def reach_channel_layer() -> None:
    """Tell nobody something over the channel layer. Raises NoAnswer."""
    layer = get_channel_layer()
    try:
        async with asyncio.timeout(PATIENCE):
            if layer:
                await layer.group_send("nobody", {"type": "are.you.there"})
    except TimeoutError:
        raise NoAnswer("It does not answer.") from None
    except (OSError, RedisError) as error:
        logger.warning("The channel layer can't be reached: %s", error)
        raise NoAnswer("It can't be reached; the log says why.") from None
