"""The sockets as an ASGI application. A site mounts it as "websocket" in its ProtocolTypeRouter."""

from __future__ import annotations

from typing import Any

from channels.auth import AuthMiddlewareStack
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import URLRouter
from django.urls import path, re_path

from routing.sockets.consumers import JobConsumer, NewsConsumer


class NoSuchSocket(AsyncWebsocketConsumer):
    """A consumer that closes sockets to unknown paths. Without it, each of them logs an exception."""

    async def connect(self) -> None:
        await self.close()


def sockets(*more: Any) -> Any:
    """Return the application that serves `/ws/jobs/`, `/ws/events/` and the site's own paths in `more`.

    The consumers check who may connect: see `routing.access.admission`.
    """
    jobs: Any = JobConsumer.as_asgi()
    events: Any = NewsConsumer.as_asgi()
    nowhere: Any = NoSuchSocket.as_asgi()
    return AuthMiddlewareStack(
        URLRouter([path("ws/jobs/", jobs), path("ws/events/", events), *more, re_path("", nowhere)])
    )
