"""The sockets as an ASGI application, to be mounted as a site's "websocket" in a ProtocolTypeRouter."""

from __future__ import annotations

from typing import Any

from channels.auth import AuthMiddlewareStack
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import URLRouter
from django.urls import path, re_path

from routing.sockets.consumers import JobConsumer, NewsConsumer


class NoSuchSocket(AsyncWebsocketConsumer):
    """Close a socket to an unknown path, which would be an exception in the log otherwise."""

    async def connect(self) -> None:
        await self.close()


def sockets(*more: Any) -> Any:
    """Return the application of `/ws/jobs/` and `/ws/events/`, and of `more` paths of the site's own.

    Who may connect is the sockets' own business: see `routing.access.admission`.
    """
    jobs: Any = JobConsumer.as_asgi()
    events: Any = NewsConsumer.as_asgi()
    nowhere: Any = NoSuchSocket.as_asgi()
    return AuthMiddlewareStack(
        URLRouter([path("ws/jobs/", jobs), path("ws/events/", events), *more, re_path("", nowhere)])
    )
