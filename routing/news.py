"""What happens to jobs, told to whoever follows them: on any worker, if they share a channel layer.

News are told once and to the best of our ability. Without the channel layer jobs are routed all the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from channels.layers import BaseChannelLayer, get_channel_layer
from redis.exceptions import RedisError

from allowance.models import ReservationState
from routing.messages import Acknowledged, Happened, Refused, Rejected, Routed, Said

EVERYTHING = "jobs"
"""The group of those that follow all jobs."""

PATIENCE = 2.0
"""Seconds that the channel layer has for one thing, and that pass before a socket listens to it again."""

logger = logging.getLogger(__name__)


def group_of(job: UUID) -> str:
    """Return the group of those that follow one job."""
    return f"job.{job.hex}"


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


def of_said(said: Said, answer: Acknowledged | Rejected | Refused) -> Happened | None:
    """Return the news of what was said of a job; None if it was not recorded."""
    if not isinstance(answer, Acknowledged):
        return None
    reservation = answer.allowance_reservation_id
    return Happened(uuid=said.uuid, of=said.type, allowance_reservation_id=reservation, reservation=answer.reservation)


async def publish(happened: Happened, *, origin: str | None = None) -> None:
    """Tell whoever follows the job or all jobs; `origin`, the channel of whoever said it, knows."""
    layer = get_channel_layer()
    message = {"type": "job.event", "origin": origin, "text": happened.model_dump_json()}
    if layer:
        async with _best_effort():
            for group in (group_of(happened.uuid), EVERYTHING):
                await layer.group_send(group, message)


class Subscription:
    """The news that one socket gets. It outlives the channel layer's failures, but not what was told meanwhile."""

    def __init__(self) -> None:
        self.channel: str | None = None
        self._groups: set[str] = set()

    async def join(self, group: str) -> None:
        """Follow a group from now on, or, if the channel layer is away, from when it is back."""
        self._groups.add(group)
        layer = get_channel_layer()
        if layer:
            async with _best_effort():
                await layer.group_add(group, await self._open(layer))

    async def leave(self, group: str) -> None:
        """Follow a group no more."""
        self._groups.discard(group)
        layer = get_channel_layer()
        if layer and self.channel:
            async with _best_effort():
                await layer.group_discard(group, self.channel)

    async def leave_all(self) -> None:
        """Follow nothing any more."""
        for group in tuple(self._groups):
            await self.leave(group)

    async def news(self) -> AsyncIterator[str]:
        """Yield what is told to the groups, until cancelled; what this socket said itself is left out."""
        layer = get_channel_layer()
        while layer:
            message: dict[str, Any] = {}
            async with _best_effort(patience=None, pause=PATIENCE):
                channel = await self._open(layer)
                message = await layer.receive(channel)
            if message and message["origin"] != self.channel:
                yield message["text"]

    async def _open(self, layer: BaseChannelLayer) -> str:
        """Return the channel, which may be a new one; then it has all the groups."""
        if self.channel is None:
            channel: str = await layer.new_channel()
            for group in self._groups:
                await layer.group_add(group, channel)
            self.channel = channel
        return self.channel


@asynccontextmanager
async def _best_effort(*, patience: float | None = PATIENCE, pause: float = 0) -> AsyncIterator[None]:
    """Do without the channel layer if it fails or takes too long, and go on after a `pause`; both in seconds."""
    try:
        async with asyncio.timeout(patience):
            yield
    except (OSError, RedisError) as error:  # a TimeoutError is an OSError
        logger.warning("The channel layer failed, so that nobody hears of some jobs: %s", error)
        await asyncio.sleep(pause)
