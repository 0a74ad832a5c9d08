"""The base class of the sockets: admission, repeated checks of it, sending and closing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from channels.generic.websocket import AsyncWebsocketConsumer
from django import db

from allowance.plumbing.threads import in_database_thread
from routing.access.admission import TOO_MANY, NotAdmitted, Visitor, admit, recheck, subprotocol
from routing.access.tokens import Scope
from routing.conf import conf
from routing.sockets import metrics, quotas
from routing.sockets.news import Subscription

INTERNAL_ERROR, TOO_SLOW = 1011, 4408
LONGEST_REASON = 123
"""Maximum length of a close reason in bytes, a limit of the WebSocket protocol."""

TO_CLOSE = 1.0
"""Timeout (s) for sending a close code to a client."""

TO_END = 2.0
"""Timeout (s) for the tasks of a socket to end after they are cancelled."""


logger = logging.getLogger(__name__)


class Untold(Exception):
    """A message was not sent: the client is gone, or it did not read earlier messages."""


class NotRead(Exception):
    """A client does not read a message in time. It may still have received the message."""


class Socket(AsyncWebsocketConsumer):
    """A socket for permitted clients. It closes with 4401 for an unknown client, with 4403 for one without permission.

    The permission is checked again every ROUTING_SOCKET_RECHECK_SECONDS, so revoking it also closes open sockets. A
    client that takes longer than ROUTING_SOCKET_SEND_SECONDS to read an answer is closed with 4408.
    """

    scope_needed: Scope
    permission: str

    channel_layer_alias = ""  # none, because Channels closes a socket if its layer fails; see routing.sockets.news

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.visitor: Visitor | None = None
        self.key = uuid4().hex
        self.subscription = Subscription()
        self.tasks: set[asyncio.Task[None]] = set()
        self.sending = asyncio.Lock()
        self.open = True
        self.serving: asyncio.Task[Any] | None = None
        self.given_up = False

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        async def receive_and_see() -> Any:
            message = await receive()
            if message["type"] == "websocket.disconnect":  # from now on, sending is an error
                self.open = False
            return message

        self.serving = asyncio.current_task()
        try:
            await super().__call__(scope, receive_and_see, send)
        except asyncio.CancelledError:
            if not self.given_up:
                raise
        finally:
            await self.end()

    async def connect(self) -> None:
        await self.accept(subprotocol(self.scope))  # only accepted clients receive a close code
        async with self.closing_on_failure():
            visitor = await in_database_thread(admit)(
                self.scope, token_scope=self.scope_needed, permission=self.permission
            )
            if not await quotas.connections.enter(visitor.owner, self.key):
                raise NotAdmitted(
                    TOO_MANY, "This client has the maximum number of sockets open. Close another socket first."
                )
            self.visitor = visitor
            metrics.SOCKETS.inc()
            await self.begin()

    async def begin(self) -> None:
        """Start the tasks that run while the socket is open."""
        self.start(self.stay_admitted())
        self.start(self.subscription.keep_up())
        self.start(self.pass_news_on())

    async def end(self) -> None:
        """Cancel the tasks of the socket and leave its groups and its quota. Undelivered routes are released."""
        self.open = False
        if self.visitor is None:
            return
        owner, self.visitor = self.visitor.owner, None
        metrics.SOCKETS.dec()
        self.subscription.close()
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=TO_END)  # the cleanup of a channel layer may hang
        await self.subscription.end()
        await quotas.connections.leave(owner, self.key)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine in a task of its own, so that the socket continues to read messages."""
        task = asyncio.create_task(self._guarded(work))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        async with self.closing_on_failure():
            await work

    async def stay_admitted(self) -> None:
        """Check the admission of the visitor repeatedly, and renew its place in the quota of connections."""
        while visitor := self.visitor:
            await asyncio.sleep(conf.ROUTING_SOCKET_RECHECK_SECONDS)
            await quotas.connections.stay(visitor.owner, self.key)
            try:
                visitor = await in_database_thread(recheck)(
                    visitor, token_scope=self.scope_needed, permission=self.permission
                )
            except db.Error:
                logger.exception(
                    "Could not check again whether %s is still permitted. The socket stays open.", visitor.name
                )
            if self.visitor:  # the socket may have ended: asyncio.wait_for of Python 3.11 may ignore a cancellation
                self.visitor = visitor

    async def pass_news_on(self) -> None:
        """Send the client the news of the jobs that it follows."""
        async for text in self.subscription.news():
            await self.tell(text)

    async def tell(self, text: str) -> None:
        """Send a message after all earlier ones. Raises Untold if it was not sent, NotRead if it may have been sent."""
        sending = False
        try:
            async with asyncio.timeout(conf.ROUTING_SOCKET_SEND_SECONDS), self.sending:
                if not self.open:
                    raise Untold
                sending = True
                await self.send(text)
        except TimeoutError:
            raise NotRead if sending else Untold from None
        except OSError as error:
            raise Untold from error

    @asynccontextmanager
    async def closing_on_failure(self) -> AsyncIterator[None]:
        """Log a failure. Close the socket unless the failure is Untold. The text of an unforeseen error is not sent."""
        client = self.scope.get("client")
        try:
            yield
        except NotAdmitted as refusal:
            logger.info("Closed a socket of %s: %s", client, refusal)
            await self.hang_up(refusal.code, str(refusal))
        except NotRead:
            logger.info("Closed a socket: %s did not read a message in time.", client)
            await self.hang_up(TOO_SLOW)
        except Untold:
            logger.info("A message was not sent: %s is disconnected, or did not read earlier messages.", client)
        except Exception:
            logger.exception("A socket of %s failed.", client)
            await self.hang_up(INTERNAL_ERROR)

    async def hang_up(self, code: int, reason: str = "") -> None:
        """Close the socket if it is open, and ignore later messages. The reason is cut to LONGEST_REASON bytes."""
        if not self.open:
            return
        self.open = False
        try:
            async with asyncio.timeout(TO_CLOSE):
                await self.close(code, reason.encode()[:LONGEST_REASON].decode(errors="ignore") or None)
        except TimeoutError:  # the client reads nothing: the server drops it only when the application ends
            self.given_up = True
            if self.serving:
                self.serving.cancel()
        except OSError:
            pass  # the client is gone
