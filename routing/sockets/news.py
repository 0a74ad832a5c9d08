"""The news of jobs, sent to their followers on all workers that share a channel layer.

News is sent once, without a guarantee of delivery. Jobs are routed even if the channel layer fails.
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
"""Timeout (s) for one operation of the channel layer, and pause (s) before it is tried again."""

MOST_UNDER_WAY = 1000
"""Maximum number of news messages that wait for the channel layer. Further ones are dropped."""

logger = logging.getLogger(__name__)


def everything() -> str:
    """Return the group of the followers of all jobs."""
    return f"{redis_prefix()}.jobs"


def group_of(job: UUID) -> str:
    """Return the group of the followers of one job."""
    return f"{redis_prefix()}.job.{job.hex}"


def of_answer(message: Routed | Rejected | Refused) -> Happened | None:
    """Return the news of an answer: a route, a rejection or a refusal. Return None if the job's uuid is invalid."""
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
    """Return the news of a statement; None if the statement was not recorded."""
    if not isinstance(answer, Acknowledged):
        return None
    reservation = answer.allowance_reservation_id
    return Happened(
        uuid=statement.uuid, of=statement.type, allowance_reservation_id=reservation, reservation=answer.reservation
    )


def publish(happened: Happened, *, origin: str | None = None, to_followers: bool = True) -> None:
    """Send news to clients that follow all jobs and, with `to_followers`, to clients that follow this job. Do not wait.

    `origin` is the channel of the client that caused the news. This client does not get the news.
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
    """The news that one socket gets. News that is sent while the channel layer fails is lost. Later news arrives."""

    def __init__(self) -> None:
        self.channel: str | None = None
        self._wanted: set[str] = set()
        self._joined: set[str] = set()
        self._changed = asyncio.Event()
        self._open = asyncio.Event()
        self._closed = False

    def join(self, group: str) -> None:
        """Follow a group as soon as the channel layer is available."""
        self._wanted.add(group)
        self._changed.set()

    def leave(self, group: str) -> None:
        """Stop following a group."""
        self._wanted.discard(group)
        self._changed.set()

    async def keep_up(self) -> None:
        """Keep the channel in the wanted groups until closed or cancelled. Failures are retried."""
        while not self._closed and (layer := get_channel_layer()):
            self._changed.clear()
            done = False
            async with _best_effort():
                await self._catch_up(layer)
                done = True
            await (self._changed.wait() if done else asyncio.sleep(PATIENCE))

    async def news(self) -> AsyncIterator[str]:
        """Yield the news of the groups until cancelled, without the news that this socket caused."""
        await self._open.wait()
        while (layer := get_channel_layer()) and self.channel:
            message: dict[str, Any] = {}
            async with _best_effort(patience=None, pause=PATIENCE):
                message = await layer.receive(self.channel)
            if message and message["origin"] != self.channel:
                yield message["text"]

    def close(self) -> None:
        """Let `keep_up` end.

        Call `close` before you cancel `keep_up`: asyncio.wait_for of Python 3.11 may ignore a cancellation.
        """
        self._closed = True
        self._wanted.clear()
        self._changed.set()

    async def end(self) -> None:
        """Leave all groups, if the channel layer answers in time."""
        self.close()
        if (layer := get_channel_layer()) and self.channel:
            async with _best_effort():
                await self._catch_up(layer)

    async def _catch_up(self, layer: BaseChannelLayer) -> None:
        if self.channel is None:
            self.channel = await layer.new_channel()
            self._open.set()
        for group in self._wanted - self._joined:
            if group not in self._wanted:  # it was left while this method joined another group
                continue
            await layer.group_add(group, self.channel)
            self._joined.add(group)
        for group in self._joined - self._wanted:
            await layer.group_discard(group, self.channel)
            self._joined.discard(group)


_under_way: set[asyncio.Task[None]] = set()
_away = False


@asynccontextmanager
async def _best_effort(*, patience: float | None = PATIENCE, pause: float = 0) -> AsyncIterator[None]:
    """Ignore a channel layer that fails or exceeds `patience`, and wait for `pause` afterwards; both in seconds."""
    global _away  # noqa: PLW0603 (the log has one line for the failure and one for the recovery)
    try:
        async with asyncio.timeout(patience):
            yield
    except (OSError, RedisError) as error:  # a TimeoutError is an OSError
        if not _away:
            logger.warning("The channel layer failed, so some news of jobs is lost: %r", error)
        _away = True
        await asyncio.sleep(pause)
    else:
        if _away:
            logger.warning("The channel layer works again.")
        _away = False
