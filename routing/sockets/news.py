"""What happens to jobs, told to whoever follows them: on any worker, if they share a channel layer.

News are told once and to the best of our ability. Without the channel layer jobs are routed all the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from channels.layers import BaseChannelLayer, get_channel_layer
from redis.exceptions import RedisError

from allowance.interface import ReservationState
from routing.conf import redis_prefix
from routing.sockets.messages import Acknowledged, Happened, Refused, Rejected, Routed, Statement

PATIENCE = 2.0
"""Seconds that the channel layer has for one thing, and that pass before it is asked for the same again."""

MOST_UNDER_WAY = 1000
"""So many news wait for the channel layer at most; what comes on top is told to nobody."""

logger = logging.getLogger(__name__)


def everything() -> str:
    """Return the group of those that follow all jobs."""
    return f"{redis_prefix()}.jobs"


def group_of(job: UUID) -> str:
    """Return the group of those that follow one job."""
    return f"{redis_prefix()}.job.{job.hex}"


def of_answer(message: Routed | Rejected | Refused) -> Happened | None:
    """Return the news that a job was routed or rejected; None if it has no proper uuid."""
    if isinstance(message, Routed):
        return Happened(
            uuid=message.uuid,
            of=message.type,
            miner=message.miner.hotkey_ss58,
            allowance_reservation_id=message.allowance_reservation_id,
            reservation=None if message.allowance_reservation_id is None else ReservationState.HELD,
        )
    try:
        return Happened(uuid=UUID(message.uuid), of=message.type, reason=message.reason)
    except ValueError:
        return None


def of_statement(statement: Statement, answer: Acknowledged | Rejected | Refused) -> Happened | None:
    """Return the news of what was said of a job; None if it was not recorded."""
    if not isinstance(answer, Acknowledged):
        return None
    reservation = answer.allowance_reservation_id
    return Happened(
        uuid=statement.uuid, of=statement.type, allowance_reservation_id=reservation, reservation=answer.reservation
    )


def publish(happened: Happened, *, origin: str | None = None, to_followers: bool = True) -> None:
    """Tell those that follow all jobs, and the job's own followers if it is for them. Waits for nothing.

    `origin` is the channel of the client that caused it, which knows already.
    """
    if len(_under_way) < MOST_UNDER_WAY:
        groups = [group_of(happened.uuid), everything()] if to_followers else [everything()]
        task = asyncio.create_task(_publish(happened, groups, origin))
        _under_way.add(task)
        task.add_done_callback(_under_way.discard)


async def _publish(happened: Happened, groups: Iterable[str], origin: str | None) -> None:
    layer = get_channel_layer()
    message = {"type": "job.event", "origin": origin, "text": happened.model_dump_json()}
    if layer:
        async with _best_effort():
            for group in groups:
                await layer.group_send(group, message)


class Subscription:
    """The news that one socket gets. It outlives the channel layer's failures, but not what was told meanwhile."""

    def __init__(self) -> None:
        self.channel: str | None = None
        self._wanted: set[str] = set()
        self._joined: set[str] = set()
        self._changed = asyncio.Event()
        self._open = asyncio.Event()

    def join(self, group: str) -> None:
        """Follow a group, from as soon as the channel layer lets."""
        self._wanted.add(group)
        self._changed.set()

    def leave(self, group: str) -> None:
        """Follow a group no more."""
        self._wanted.discard(group)
        self._changed.set()

    async def keep_up(self) -> None:
        """See to it, until cancelled, that the channel is in the groups that are wanted, however often that fails."""
        while layer := get_channel_layer():
            self._changed.clear()
            done = False
            async with _best_effort():
                await self._catch_up(layer)
                done = True
            await (self._changed.wait() if done else asyncio.sleep(PATIENCE))

    async def news(self) -> AsyncIterator[str]:
        """Yield what is told to the groups, until cancelled; what this socket said itself is left out."""
        await self._open.wait()
        while (layer := get_channel_layer()) and self.channel:
            message: dict[str, Any] = {}
            async with _best_effort(patience=None, pause=PATIENCE):
                message = await layer.receive(self.channel)
            if message and message["origin"] != self.channel:
                yield message["text"]

    async def end(self) -> None:
        """Leave all groups, as far as the channel layer lets in time."""
        self._wanted.clear()
        if (layer := get_channel_layer()) and self.channel:
            async with _best_effort():
                await self._catch_up(layer)

    async def _catch_up(self, layer: BaseChannelLayer) -> None:
        if self.channel is None:
            self.channel = await layer.new_channel()
            self._open.set()
        for group in self._wanted - self._joined:
            await layer.group_add(group, self.channel)
            self._joined.add(group)
        for group in self._joined - self._wanted:
            await layer.group_discard(group, self.channel)
            self._joined.discard(group)


_under_way: set[asyncio.Task[None]] = set()
_away = False


@asynccontextmanager
async def _best_effort(*, patience: float | None = PATIENCE, pause: float = 0) -> AsyncIterator[None]:
    """Do without the channel layer if it fails or takes too long, and go on after a `pause`; both in seconds."""
    global _away  # noqa: PLW0603 (the log tells when it goes and when it comes, not of each thing meanwhile)
    try:
        async with asyncio.timeout(patience):
            yield
    except (OSError, RedisError) as error:  # a TimeoutError is an OSError
        if not _away:
            logger.warning("The channel layer failed, so that nobody hears of some jobs: %r", error)
        _away = True
        await asyncio.sleep(pause)
    else:
        if _away:
            logger.warning("The channel layer is back.")
        _away = False
