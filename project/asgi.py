"""The ASGI application: HTTP and WebSockets."""

from __future__ import annotations

import os
import warnings

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
http = get_asgi_application()  # loads the apps, which the imports below need

from channels.routing import ProtocolTypeRouter  # noqa: E402

from routing.asgi import sockets  # noqa: E402

# WhiteNoise serves files from a synchronous iterator. The files are small, and a front server serves them anyway.
warnings.filterwarnings("ignore", "StreamingHttpResponse must consume synchronous iterators")

application = ProtocolTypeRouter({"http": http, "websocket": sockets()})
