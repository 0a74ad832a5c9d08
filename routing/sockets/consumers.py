"""The two sockets: one routes jobs and records statements, the other sends the news of all jobs."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from time import monotonic
from typing import Any
from uuid import UUID

from allowance.interface import MAX_JOB_RUN_TIME, RESERVATION_MARGIN
from allowance.plumbing.threads import dispose_later, in_database_thread
from routing.access.admission import Visitor
from routing.access.tokens import Scope
from routing.requests import V2JobRequest
from routing.sockets import answers, metrics, news, quotas
from routing.sockets.answers import Answer
from routing.sockets.base import NotRead, Socket
from routing.sockets.messages import Acknowledged, Happened, Incoming, Refused, Rejected, Retry, Routed
from routing.sockets.quotas import Free, Rate, Slots, process_slots

MOST_FOLLOWED = 1000
"""Maximum number of jobs that one socket follows."""


async def read(data: str | bytes) -> Incoming | Refused | Rejected:
    """Read a message. A large one is read in a thread: only its socket and other large messages queue behind it."""
    if len(data) < answers.LARGE:
        return answers.read(data)
    return await asyncio.get_running_loop().run_in_executor(_reader(os.getpid()), answers.read, data)


@lru_cache(maxsize=1)
def _reader(_process: int) -> ThreadPoolExecutor:
    """Return the one thread of a process that reads large messages: no client may keep several threads busy."""
    return ThreadPoolExecutor(1, thread_name_prefix="large-messages")


class JobConsumer(Socket):
    """The socket that routes jobs and records statements about them; docs/socket.md describes the messages.

    Messages are processed in parallel, up to ROUTING_SOCKET_IN_FLIGHT_EACH per socket and ROUTING_SOCKET_IN_FLIGHT per
    process, so answers may come in a different order. Further messages are refused at once.
    """

    scope_needed = Scope.JOBS
    permission = "routing.route_jobs"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.slots = Slots("ROUTING_SOCKET_IN_FLIGHT_EACH")
        self.rate = Rate()
        self.followed: dict[UUID, float] = {}

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None, **_kwargs: Any) -> None:
        if self.visitor and self.open:
            async with self.closing_on_failure():
                await self.take_on(text_data if text_data is not None else bytes_data or b"", self.visitor)

    async def take_on(self, data: str | bytes, visitor: Visitor) -> None:
        """Start to process a message, or refuse it at once."""
        if not self.rate.allow():
            message: Incoming | Refused | Rejected = answers.RATE_LIMITED
        elif await quotas.messages.take(visitor.owner) is not None:
            message = answers.CLIENT_RATE_LIMITED
        else:
            message = await read(data)
        if isinstance(message, Refused | Rejected):
            await self.answer(message)
            return
        free_in_socket = self.slots.take()
        free_in_process = process_slots.take() if free_in_socket else None
        if free_in_socket and free_in_process:
            task = self.start(self.work_on(message, visitor, free_in_process))
            for free in (free_in_socket, free_in_process):
                task.add_done_callback(free)
            return
        if free_in_socket:
            free_in_socket()
        await self.answer(answers.overloaded(message))

    async def work_on(self, message: Incoming, visitor: Visitor, free: Free) -> None:
        """Answer a message and publish its news. The process's slot is freed before the answer is sent."""
        if isinstance(message, V2JobRequest | Retry):
            if (wait := quotas.refusals.wait(visitor.owner)) is not None:
                free()
                await self.answer(answers.refused_too_often(message, wait))
                return
            answer = await in_database_thread(answers.to_question, release_undelivered=answers.release_undelivered)(
                message, visitor
            )
            free()
            if not (answer.offer or answer.unavailable):
                await quotas.refusals.count(visitor.owner)
            await self.pass_on(answer)
            if answer.offer:
                self.follow(answer.offer.uuid)
            self.publish(news.of_answer(answer.message), to_followers=answer.decided)
        else:
            acknowledged = await in_database_thread(answers.to_statement)(message, visitor)
            free()
            # Publish first: the statement is recorded, even if the client does not read the answer.
            self.publish(news.of_statement(message, acknowledged))
            await self.answer(acknowledged)

    def publish(self, happened: Happened | None, *, to_followers: bool = True) -> None:
        """Publish the news of a job, if there is any.

        Followers of one job get only news caused by clients that may use the job. Others could send them false news.
        """
        if happened:
            news.publish(happened, origin=self.subscription.channel, to_followers=to_followers)

    async def pass_on(self, answer: Answer) -> None:
        """Send the answer to a question. If it can't be sent, release its route.

        If the client may have received the route but read it too slowly, the route stays held until it expires. A
        repeated question gets the same route.
        """
        try:
            await self.answer(answer.message)
        except NotRead:
            raise
        except BaseException:
            dispose_later(answers.release_undelivered, answer)
            raise

    def follow(self, job: UUID) -> None:
        """Follow a job for as long as it may take, or until MOST_FOLLOWED newer jobs are followed."""
        now = monotonic()
        self.followed.pop(job, None)
        self.followed[job] = now + MAX_JOB_RUN_TIME + RESERVATION_MARGIN.total_seconds()
        self.subscription.join(news.group_of(job))
        while len(self.followed) > MOST_FOLLOWED or next(iter(self.followed.values())) < now:
            past = next(iter(self.followed))
            del self.followed[past]
            self.subscription.leave(news.group_of(past))

    async def answer(self, message: Routed | Rejected | Acknowledged | Refused) -> None:
        """Send an answer. Raises Untold if it was not sent, NotRead if it may have been sent."""
        if isinstance(message, Rejected | Refused):
            metrics.REJECTED.labels(message.reason).inc()
        await self.tell(message.model_dump_json())


class NewsConsumer(Socket):
    """The socket that sends the news of all jobs, on any socket, to permitted clients. It ignores what they send."""

    scope_needed = Scope.EVENTS
    permission = "routing.view_routedjob"

    async def begin(self) -> None:
        self.subscription.join(news.everything())
        await super().begin()
