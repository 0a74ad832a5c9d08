"""Limits on what one socket, one process, and one client over all its sockets may do.

A message beyond a limit is refused at once, not queued. The limits of clients apply to all processes that share a
Redis. With REDIS_URL the counts are in Redis. Without it each process has its own counts. While Redis is unavailable,
each process counts alone: the limit then applies per process, and no client is refused because of Redis.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from prometheus_client import Gauge
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from routing.conf import conf, redis_prefix
from routing.sockets.metrics import IN_FLIGHT

PATIENCE = 0.5
"""Timeout (s) for an answer of Redis."""

PAUSE = 5.0
"""Pause (s) before Redis is asked again after a failure."""

PORTIONS = 100
"""A process takes 1/PORTIONS of what is left of a limit at a time, at least 1.

Most messages then need no call to Redis. Each portion is small, so a limit lasts for many processes, even if each of
them gets only one message.
"""

MOST_REMEMBERED = 1000
"""Number of clients at which expired lots are removed."""

CONNECTIONS_TO_REDIS = 4

TAKE = """
local left = tonumber(ARGV[1]) - tonumber(redis.call('GET', KEYS[1]) or '0')
local granted = math.max(0, math.min(left, math.max(1, math.floor(left / tonumber(ARGV[2])))))
redis.call('INCRBY', KEYS[1], granted)
if redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return {granted, redis.call('PTTL', KEYS[1])}
"""
"""The script that takes a portion of a limit. The period begins with the first portion, by the clock of Redis."""

COUNT = """
local counted = redis.call('INCR', KEYS[1])
if redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return {counted, redis.call('PTTL', KEYS[1])}
"""
"""The script that counts one event. The period begins with the first event, by the clock of Redis."""

ENTER = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[3]), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""
"""The script that adds or renews a client's socket. A socket that is not renewed in time is no longer counted."""

LEAVE = "return redis.call('ZREM', KEYS[1], ARGV[1])"

logger = logging.getLogger(__name__)


Free = Callable[..., None]
"""A function that frees a slot. To call it again changes nothing."""


class Slots:
    """Slots for messages in flight, as many as the setting `name` allows. A `gauge` shows how many are taken."""

    def __init__(self, name: str, gauge: Gauge | None = None) -> None:
        self._name = name
        self._gauge = gauge
        self._taken: set[object] = set()

    def take(self) -> Free | None:
        """Take a slot, and return the function that frees it. Return None if all are taken."""
        if len(self._taken) >= getattr(conf, self._name):
            return None
        slot = object()

        def free(*_: object) -> None:
            self._taken.discard(slot)
            self._show()

        self._taken.add(slot)
        self._show()
        return free

    def _show(self) -> None:
        if self._gauge:
            self._gauge.set(len(self._taken))


class Rate:
    """A token bucket: ROUTING_SOCKET_MESSAGES_PER_SECOND on average, and bursts of the same number."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._per_second = conf.ROUTING_SOCKET_MESSAGES_PER_SECOND
        self._left = self._per_second
        self._seen = clock()

    def allow(self) -> bool:
        """Return whether one more message is allowed, and count it if it is."""
        now = self._clock()
        self._left = min(self._per_second, self._left + (now - self._seen) * self._per_second)
        self._seen = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass(slots=True)
class Lot:
    """A number of events, valid `until` a monotonic time: the events left in a Bound, the events counted in a Tally.

    If `last` is true, a Bound asks for no other lot before `until`.
    """

    number: int
    until: float
    last: bool = False


class Quota:
    """The events of each client in a period of `seconds`, limited by `setting`. A process keeps a lot for each client.

    Expired lots are ignored, and removed when there are MOST_REMEMBERED clients.
    """

    def __init__(self, setting: str, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._setting = setting
        self._seconds = seconds
        self._clock = clock
        self._lots: dict[str, Lot] = {}

    def _lot(self, client: str) -> Lot | None:
        lot = self._lots.get(client)
        return lot if lot and self._clock() < lot.until else None

    def _keep(self, client: str, lot: Lot) -> Lot:
        now = self._clock()
        if len(self._lots) >= MOST_REMEMBERED:
            self._lots = {name: other for name, other in self._lots.items() if now < other.until}
        self._lots[client] = lot
        return lot

    def _time_left(self, lot: Lot) -> float:
        """Return the seconds until a lot expires, at least 0.1."""
        return max(0.1, round(lot.until - self._clock(), 1))


class Bound(Quota):
    """A quota that is checked before each event."""

    def __init__(self, setting: str, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(setting, seconds, clock)
        self._refills: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def take(self, client: str) -> float | None:
        """Count one event. Return None if it is allowed, otherwise the seconds to wait."""
        lot = self._usable(client)
        if lot is None:
            async with self._refills.setdefault(client, asyncio.Lock()):  # one of the waiting calls asks Redis
                lot = self._usable(client) or await self._refill(client)
        if not lot.number:
            return self._time_left(lot)
        lot.number -= 1
        return None

    def _usable(self, client: str) -> Lot | None:
        """Return the client's lot if it has events left or is the last one; None if Redis may grant more."""
        lot = self._lot(client)
        return lot if lot and (lot.number or lot.last) else None

    async def _refill(self, client: str) -> Lot:
        most = max(1, int(getattr(conf, self._setting)))
        answer = await _ask(TAKE, f"{self._setting}:{client}", most, PORTIONS, round(self._seconds * 1000))
        granted, milliseconds = answer or (most, self._seconds * 1000)
        lot = Lot(granted, self._clock() + milliseconds / 1000, last=answer is None or not granted)
        return self._keep(client, lot)


class Tally(Quota):
    """A quota that counts an event after it has happened, so an event in progress does not use up the limit.

    A process gets the counts of other processes when it counts an event itself. The total may exceed the limit by one
    for each process and by one for each event in progress.
    """

    def wait(self, client: str) -> float | None:
        """Return the seconds until a client may continue; None if it may continue now."""
        lot = self._lot(client)
        return self._time_left(lot) if lot and lot.number >= getattr(conf, self._setting) else None

    async def count(self, client: str) -> None:
        """Count one event."""
        answer = await _ask(COUNT, f"{self._setting}:{client}", round(self._seconds * 1000))
        lot = self._lot(client) or Lot(0, self._clock() + self._seconds)
        number, until = lot.number + 1, lot.until
        if answer is not None:
            number, until = answer[0], self._clock() + answer[1] / 1000
        self._keep(client, Lot(number, until))


class Connections:
    """The open sockets of each client."""

    def __init__(self, setting: str) -> None:
        self._setting = setting
        self._here: dict[str, set[str]] = {}

    async def enter(self, client: str, socket: str) -> bool:
        """Count a socket, unless the client has the maximum number. Return whether it is counted."""
        here = self._here.setdefault(client, set())
        if len(here) >= getattr(conf, self._setting):
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
        """Renew a counted socket. It stays open even if Redis has lost it and other sockets took its place."""
        await self._renew(client, socket)

    async def leave(self, client: str, socket: str) -> None:
        """Stop counting a socket."""
        self._leave_here(client, socket)
        await _ask(LEAVE, f"{self._setting}:{client}", socket)

    async def _renew(self, client: str, socket: str) -> bool:
        lease = 3 * conf.ROUTING_SOCKET_RECHECK_SECONDS  # each check of the socket's admission renews it
        key, most = f"{self._setting}:{client}", int(getattr(conf, self._setting))
        refused: bool = await _ask(ENTER, key, socket, most, round(lease * 1000)) == 0
        return not refused

    def _leave_here(self, client: str, socket: str) -> None:
        here = self._here.get(client, set())
        here.discard(socket)
        if not here:
            self._here.pop(client, None)


process_slots = Slots("ROUTING_SOCKET_IN_FLIGHT", IN_FLIGHT)
"""The slots of this process, for all its sockets."""

connections = Connections("ROUTING_CLIENT_CONNECTIONS")
messages = Bound("ROUTING_CLIENT_MESSAGES_PER_SECOND", 1)
refusals = Tally("ROUTING_CLIENT_REFUSALS_PER_MINUTE", 60)

_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, Redis] = WeakKeyDictionary()
_away_until = 0.0


async def _ask(script: str, key: str, *arguments: object) -> Any:
    """Return the answer of Redis; None if REDIS_URL is not set or Redis is unavailable."""
    global _away_until  # noqa: PLW0603 (one pause after a failure of Redis, for the whole process)
    if time.monotonic() < _away_until or not (url := conf.REDIS_URL):
        return None
    try:
        async with asyncio.timeout(PATIENCE):
            return await _client(url).eval(script, 1, f"{redis_prefix()}:{key}", *map(str, arguments))
    except (OSError, RedisError) as error:  # a TimeoutError is an OSError
        if time.monotonic() >= _away_until:
            logger.warning(
                "Redis failed: %r. Until it is back, each process applies the client limits to its own counts.", error
            )
        _away_until = time.monotonic() + PAUSE
        return None


def _client(url: str) -> Redis:
    """Return the Redis client of this event loop."""
    loop = asyncio.get_running_loop()
    if (client := _clients.get(loop)) is None:
        pool = BlockingConnectionPool.from_url(
            url, max_connections=CONNECTIONS_TO_REDIS, timeout=PATIENCE, retry=Retry(NoBackoff(), 0)
        )
        client = _clients[loop] = Redis(connection_pool=pool)
    return client
