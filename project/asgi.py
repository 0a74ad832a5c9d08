"""HTTP and the sockets, each job socket behind a login and, for browsers, a check of where the page came from."""

from __future__ import annotations

import os
import warnings
from typing import Any
from urllib.parse import ParseResult

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
http = get_asgi_application()  # loads the apps, which the imports below need

from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import OriginValidator  # noqa: E402
from django.conf import settings  # noqa: E402
from django.urls import path, re_path  # noqa: E402

from routing.consumers import JobConsumer  # noqa: E402

# WhiteNoise hands out files in chunks, synchronously; they are small, and a server in front serves them anyway.
warnings.filterwarnings("ignore", "StreamingHttpResponse must consume synchronous iterators")


class BrowserOriginValidator(OriginValidator):
    """Refuse pages of other hosts. Who sends no Origin is no browser, and has no cookies that a page could abuse."""

    def valid_origin(self, parsed_origin: ParseResult | None) -> bool:
        return parsed_origin is None or bool(super().valid_origin(parsed_origin))


class NoSuchSocket(AsyncWebsocketConsumer):
    """Close a socket to an unknown path, which would be an exception in the log otherwise."""

    async def connect(self) -> None:
        await self.close()


jobs: Any = JobConsumer.as_asgi()
nowhere: Any = NoSuchSocket.as_asgi()
sockets: list[Any] = [path("ws/jobs/", jobs), re_path("", nowhere)]
application = ProtocolTypeRouter(
    {
        "http": http,
        "websocket": BrowserOriginValidator(AuthMiddlewareStack(URLRouter(sockets)), settings.ALLOWED_HOSTS),
    }
)
