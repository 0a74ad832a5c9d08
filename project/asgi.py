"""HTTP and the sockets."""

from __future__ import annotations

import os
import warnings

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
http = get_asgi_application()  # loads the apps, which the imports below need

from channels.routing import ProtocolTypeRouter  # noqa: E402

from routing.asgi import sockets  # noqa: E402

# WhiteNoise hands out files in chunks, synchronously; they are small, and a server in front serves them anyway.
warnings.filterwarnings("ignore", "StreamingHttpResponse must consume synchronous iterators")

application = ProtocolTypeRouter({"http": http, "websocket": sockets()})
