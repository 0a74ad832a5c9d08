"""The other end of our sockets, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast
from uuid import uuid4

from asgiref.sync import sync_to_async
from channels.layers import InMemoryChannelLayer, get_channel_layer
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import AnonymousUser, Permission, User
from django.db import connections

from allowance.models import Reservation
from allowance.plumbing.threads import in_database_thread
from project.asgi import application
from routing.sockets.consumers import JobConsumer
from routing.sockets.news import everything
from tests.ledgers import CLASS
from tests.programs import DEADLINE, wait_until

JSON = dict[str, Any]
PATIENCE = DEADLINE
"""Seconds to wait for an answer."""


def permitted(name: str, codename: str = "route_jobs") -> User:
    """Return a new user with a permission of ours."""
    user = User.objects.create_user(name)
    user.user_permissions.add(Permission.objects.get(content_type__app_label="routing", codename=codename))
    return user


def consumer_for(user: AnonymousUser | User | None) -> WebsocketCommunicator:
    """Return the consumer's other end, with the `user` that middleware would have found."""
    communicator = WebsocketCommunicator(JobConsumer.as_asgi(), "/ws/jobs/")
    cast(JSON, communicator.scope)["user"] = user
    return communicator


@asynccontextmanager
async def socket(user: User) -> AsyncIterator[WebsocketCommunicator]:
    """Connect as `user`."""
    communicator = consumer_for(user)
    assert (await communicator.connect(PATIENCE))[0]
    yield communicator
    await communicator.disconnect(timeout=PATIENCE)


@asynccontextmanager
async def following() -> AsyncIterator[None]:
    """Wait at the end until one more socket hears of all jobs; that it is accepted does not say so yet."""
    layer = cast(InMemoryChannelLayer, get_channel_layer())

    def followers() -> int:
        return len(layer.groups.get(everything(), {}))

    before = followers()
    yield
    await asyncio.to_thread(wait_until, lambda: followers() > before)


async def ask(communicator: WebsocketCommunicator, **changes: object) -> JSON:
    """Send a job and return the answer."""
    return await tell(communicator, job(**changes))


async def tell(communicator: WebsocketCommunicator, message: JSON) -> JSON:
    """Send a message and return the answer."""
    await communicator.send_json_to(message)
    return await answer(communicator)


async def answer(communicator: WebsocketCommunicator) -> JSON:
    """Return what comes next."""
    message: JSON = await communicator.receive_json_from(PATIENCE)
    return message


def job(**changes: object) -> JSON:
    """Return a good V2JobRequest of 60 s, but for `changes`."""
    return {
        "uuid": str(uuid4()),
        "executor_class": CLASS,
        "docker_image": "backenddevelopersltd/compute-horde-job-echo:v0-latest",
        "args": [],
        "env": {},
        "use_gpu": False,
        "download_time_limit": 10,
        "execution_time_limit": 40,
        "upload_time_limit": 10,
        "streaming_start_time_limit": 0,
        **changes,
    }


async def reservations() -> list[Reservation]:
    return await in_database_thread(lambda: list(Reservation.objects.select_related("account")))()


@asynccontextmanager
async def whole_application(
    *headers: tuple[bytes, bytes], path: str = "/ws/jobs/"
) -> AsyncIterator[WebsocketCommunicator]:
    """Connect to the project's own application; its session middleware uses a thread outside our pool."""
    communicator = WebsocketCommunicator(application, path, headers=[(b"host", b"localhost"), *headers])
    try:
        yield communicator
    finally:
        await communicator.disconnect(timeout=PATIENCE)
        await sync_to_async(connections.close_all)()
