"""The sockets: jobs in and their routes out, and all that happens to jobs for whoever follows it."""

from __future__ import annotations

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
from routing.sockets.limits import Rate, Slot, Slots, process_slots
from routing.sockets.messages import Acknowledged, Happened, Incoming, Refused, Rejected, Retry, Routed

MOST_FOLLOWED = 1000
"""So many jobs one socket hears news of."""


class JobConsumer(Socket):
    """Route jobs, and take note of what becomes of them; docs/socket.md has the messages.

    Messages are worked on side by side, up to ROUTING_SOCKET_IN_FLIGHT_EACH on a socket and ROUTING_SOCKET_IN_FLIGHT in
    a process, so answers may come in another order. More messages are refused at once.
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
        """Begin to work on a message, or refuse it at once."""
        if not self.rate.allow():
            message: Incoming | Refused | Rejected = answers.RATE_LIMITED
        elif await quotas.messages.take(visitor.owner) is not None:
            message = answers.CLIENT_RATE_LIMITED
        else:
            message = answers.read(data)
        if isinstance(message, Refused | Rejected):
            await self.answer(message)
            return
        in_socket = self.slots.take()
        in_process = process_slots.take() if in_socket else None
        if in_socket and in_process:
            task = self.start(self.work_on(message, visitor, in_process))
            for slot in (in_socket, in_process):
                task.add_done_callback(slot.free)
            return
        if in_socket:
            in_socket.free()
        await self.answer(answers.overloaded(message))

    async def work_on(self, message: Incoming, visitor: Visitor, slot: Slot) -> None:
        """Answer a message, and tell whoever follows the job. The process's slot is free before the client has read."""
        if isinstance(message, V2JobRequest | Retry):
            if (wait := quotas.refusals.wait(visitor.owner)) is not None:
                slot.free()
                await self.answer(answers.refused_too_often(message, wait))
                return
            answer = await in_database_thread(answers.to_question, release_undelivered=answers.release_undelivered)(
                message, visitor
            )
            slot.free()
            if not (answer.offer or answer.unavailable):
                await quotas.refusals.count(visitor.owner)
            await self.pass_on(answer)
            if answer.offer:
                self.follow(answer.offer.uuid)
            self.publish(news.of_answer(answer.message), to_followers=answer.decided)
        else:
            acknowledged = await in_database_thread(answers.to_statement)(message, visitor)
            slot.free()
            self.publish(
                news.of_statement(message, acknowledged)
            )  # it is recorded, whether the client reads that or not
            await self.answer(acknowledged)

    def publish(self, happened: Happened | None, *, to_followers: bool = True) -> None:
        """Tell others what happened to a job, if anything did.

        Followers of one job hear only what its owner caused: others could make them believe anything.
        """
        if happened:
            news.publish(happened, origin=self.subscription.channel, to_followers=to_followers)

    async def pass_on(self, answer: Answer) -> None:
        """Tell where a job goes, or why nowhere. A route that can't be told holds nothing any more.

        One that the client may have got, and only was slow to read, stays until it expires: it would be told again.
        """
        try:
            await self.answer(answer.message)
        except NotRead:
            raise
        except BaseException:
            dispose_later(answers.release_undelivered, answer)
            raise

    def follow(self, job: UUID) -> None:
        """Hear what is said of a job elsewhere, for as long as it may take, or until MOST_FOLLOWED more have come."""
        now = monotonic()
        self.followed.pop(job, None)
        self.followed[job] = now + MAX_JOB_RUN_TIME + RESERVATION_MARGIN.total_seconds()
        self.subscription.join(news.group_of(job))
        while len(self.followed) > MOST_FOLLOWED or next(iter(self.followed.values())) < now:
            past = next(iter(self.followed))
            del self.followed[past]
            self.subscription.leave(news.group_of(past))

    async def answer(self, message: Routed | Rejected | Acknowledged | Refused) -> None:
        """Send an answer. Raises Untold if it was not sent, NotRead if it may have been."""
        if isinstance(message, Rejected | Refused):
            metrics.REJECTED.labels(message.reason).inc()
        await self.tell(message.model_dump_json())


class NewsConsumer(Socket):
    """Tell all that happens to jobs, on any socket, to whoever may see them. It listens to nothing."""

    scope_needed = Scope.EVENTS
    permission = "routing.view_routedjob"

    async def begin(self) -> None:
        self.subscription.join(news.everything())
        await super().begin()
