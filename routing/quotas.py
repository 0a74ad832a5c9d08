"""Bounds on what one client may do over all its sockets, in all processes that share a Redis.

With REDIS_URL the counts are in Redis, and without it each process has its own. If Redis is away, each process counts
alone until it is back: a bound is then so much for each process, and no client is turned away because of Redis.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from django.conf import settings
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from routing.conf import redis_prefix
from routing.limits import limit

PATIENCE = 0.5
"""Seconds that Redis has for an answer."""

PAUSE = 5.0
"""Seconds for which a Redis that failed is not asked again."""

PORTIONS = 20
"""A process takes so large a part of a bound at a time, so that it need not ask Redis for each message."""

MOST_REMEMBERED = 1000
"""From so many clients on, those whose time is over are forgotten."""

CONNECTIONS_TO_REDIS = 4

TAKE = """
local taken = tonumber(redis.call('GET', KEYS[1]) or '0')
local granted = math.max(0, math.min(tonumber(ARGV[1]), tonumber(ARGV[2]) - taken))
redis.call('INCRBY', KEYS[1], granted)
if redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return {granted, redis.call('PTTL', KEYS[1])}
"""
"""Take some of a bound. The time begins with the first that is taken, by the clock of Redis."""

ENTER = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[3]), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""
"""Add a socket to those of a client, or renew it. One that is not renewed in time counts no more."""

LEAVE = "return redis.call('ZREM', KEYS[1], ARGV[1])"

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Lot:
    """What a process has left of a client's bound, until when by the monotonic clock, and whether that was the last."""

    left: int
    until: float
    last: bool


class Bound:
    """So many things as a setting says that one client may do in a time of some `seconds`."""

    def __init__(self, setting: str, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._setting = setting
        self._clock = clock
        self._seconds = seconds
        self._lots: dict[str, Lot] = {}

    async def take(self, client: str) -> float | None:
        """Count one more thing. Returns None if the client may do it, or else after how many seconds it may."""
        if (lot := self._lot(client)) is None or not (lot.left or lot.last):
            lot = await self._refill(client)
        if lot.left:
            lot.left -= 1
            return None
        return max(0.1, round(lot.until - self._clock(), 1))

    def put_back(self, client: str) -> None:
        """Count one thing less: it did not come to what is counted."""
        if lot := self._lot(client):
            lot.left += 1

    def _lot(self, client: str) -> Lot | None:
        lot = self._lots.get(client)
        return lot if lot and self._clock() < lot.until else None

    async def _refill(self, client: str) -> Lot:
        most = max(1, int(limit(self._setting)))
        portion = max(1, most // PORTIONS)
        answer = await _ask(TAKE, f"{self._setting}:{client}", portion, most, round(self._seconds * 1000))
        now, lot = self._clock(), self._lot(client)  # which others may have refilled meanwhile
        granted, milliseconds = answer or (most, self._seconds * 1000)
        if lot is None:
            lot = self._remember(client, Lot(0, now + milliseconds / 1000, last=False))
        if not lot.last:
            lot.left += granted
            lot.last = answer is None or not granted
        return lot

    def _remember(self, client: str, lot: Lot) -> Lot:
        now = self._clock()
        if len(self._lots) >= MOST_REMEMBERED:
            self._lots = {name: other for name, other in self._lots.items() if now < other.until}
        self._lots[client] = lot
        return lot


class Connections:
    """The open sockets of each client."""

    def __init__(self, setting: str) -> None:
        self._setting = setting
        self._here: dict[str, set[str]] = {}

    async def enter(self, client: str, socket: str) -> bool:
        """Count a socket, unless the client has as many as it may. Returns whether it is counted."""
        here = self._here.setdefault(client, set())
        if len(here) >= limit(self._setting):
            return False
        here.add(socket)
        try:
            counted = await self._renew(client, socket)
        except BaseException:
            self._leave_here(client, socket)
            raise
        if not counted:
            self._leave_here(client, socket)
        return counted

    async def stay(self, client: str, socket: str) -> None:
        """Renew a socket that was counted. It stays, even if Redis has lost it and others took its place."""
        await self._renew(client, socket)

    async def leave(self, client: str, socket: str) -> None:
        """Count a socket no more."""
        self._leave_here(client, socket)
        await _ask(LEAVE, f"{self._setting}:{client}", socket)

    async def _renew(self, client: str, socket: str) -> bool:
        lease = 3 * limit("SOCKET_RECHECK_SECONDS")  # it is renewed whenever its right to be here is looked at
        key, most = f"{self._setting}:{client}", int(limit(self._setting))
        refused: bool = await _ask(ENTER, key, socket, most, round(lease * 1000)) == 0
        return not refused

    def _leave_here(self, client: str, socket: str) -> None:
        here = self._here.get(client, set())
        here.discard(socket)
        if not here:
            self._here.pop(client, None)


connections = Connections("ROUTING_CLIENT_CONNECTIONS")
messages = Bound("ROUTING_CLIENT_MESSAGES_PER_SECOND", 1)
refusals = Bound("ROUTING_CLIENT_REFUSALS_PER_MINUTE", 60)

_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, Redis] = WeakKeyDictionary()
_away_until = 0.0


async def _ask(script: str, key: str, *arguments: object) -> Any:
    """Return what Redis answers, None if there is none, or if it is away."""
    global _away_until  # noqa: PLW0603 (a Redis that is away is asked again after a pause only, by all of a process)
    if time.monotonic() < _away_until or not (url := getattr(settings, "REDIS_URL", "")):
        return None
    try:
        async with asyncio.timeout(PATIENCE):
            return await _client(url).eval(script, 1, f"{redis_prefix()}:{key}", *map(str, arguments))
    except (OSError, RedisError) as error:  # a TimeoutError is an OSError
        if time.monotonic() >= _away_until:
            logger.warning("Redis failed, so each process bounds its clients alone for a while: %r", error)
        _away_until = time.monotonic() + PAUSE
        return None


def _client(url: str) -> Redis:
    """Return this event loop's client of Redis."""
    loop = asyncio.get_running_loop()
    if (client := _clients.get(loop)) is None:
        pool = BlockingConnectionPool.from_url(
            url, max_connections=CONNECTIONS_TO_REDIS, timeout=PATIENCE, retry=Retry(NoBackoff(), 0)
        )
        client = _clients[loop] = Redis(connection_pool=pool)
    return client
