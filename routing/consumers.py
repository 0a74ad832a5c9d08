"""The sockets: jobs in and their routes out, and all that happens to jobs for whoever follows it."""

from __future__ import annotations

from time import monotonic
from typing import Any
from uuid import UUID

from allowance.threads import give_back_later, in_database_thread
from allowance.types import HOLD_MARGIN, MAX_JOB_RUN_TIME
from routing import answers, metrics, news
from routing.answers import Answer
from routing.limits import Rate, Slot, Slots, process_slots
from routing.messages import Acknowledged, Incoming, Refused, Rejected, Retry, Routed
from routing.requests import V2JobRequest
from routing.sockets import Socket
from routing.tokens import Scope


class JobConsumer(Socket):
    """Route jobs, and take note of what becomes of them; docs/socket.md has the messages.

    Messages are worked on side by side, up to SOCKET_IN_FLIGHT_EACH on a socket and SOCKET_IN_FLIGHT in a process, so
    answers may come in another order. More of them are refused at once.
    """

    scope_needed = Scope.JOBS
    permission = "routing.route_jobs"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.slots = Slots("SOCKET_IN_FLIGHT_EACH")
        self.rate = Rate()
        self.followed: dict[UUID, float] = {}

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None, **_kwargs: Any) -> None:
        if self.visitor and self.open:
            async with self.closing_on_failure():
                await self.take_on(text_data if text_data is not None else bytes_data or b"")

    async def take_on(self, data: str | bytes) -> None:
        """Begin to work on a message, or refuse it at once."""
        message = answers.read(data) if self.rate.allow() else answers.RATE_LIMITED
        if isinstance(message, Refused | Rejected):
            await self.answer(message)
            return
        in_socket = self.slots.take()
        in_process = process_slots.take() if in_socket else None
        if in_socket and in_process:
            task = self.start(self.work_on(message, in_process))
            for slot in (in_socket, in_process):
                task.add_done_callback(slot.free)
            return
        if in_socket:
            in_socket.free()
        await self.answer(answers.overloaded(message))

    async def work_on(self, message: Incoming, slot: Slot) -> None:
        """Answer a message, and tell whoever follows the job. The process's slot is free before the client has read."""
        if isinstance(message, V2JobRequest | Retry):
            answer = await in_database_thread(answers.to_question, give_back=answers.give_back)(message)
            slot.free()
            await self.pass_on(answer)
            if answer.offer:
                await self.follow(answer.offer.uuid)
            happened = news.of_answer(answer.message)
        else:
            acknowledged = await in_database_thread(answers.to_said)(message)
            slot.free()
            await self.answer(acknowledged)
            happened = news.of_said(message, acknowledged)
        if happened:
            await news.publish(happened, origin=self.subscription.channel)

    async def pass_on(self, answer: Answer) -> None:
        """Tell where a job goes, or why nowhere. A route that can't be told holds nothing any more.

        One that the client may have got, and only was slow to read, stays until it lapses: it would be told again.
        """
        try:
            await self.answer(answer.message)
        except TimeoutError:
            raise
        except BaseException:
            give_back_later(answers.give_back, answer)
            raise

    async def follow(self, job: UUID) -> None:
        """Hear what is said of a job elsewhere, for as long as it may take; forget those whose time is over."""
        now = monotonic()
        for past in [followed for followed, until in self.followed.items() if until < now]:
            del self.followed[past]
            await self.subscription.leave(news.group_of(past))
        self.followed[job] = now + MAX_JOB_RUN_TIME + HOLD_MARGIN.total_seconds()
        await self.subscription.join(news.group_of(job))

    async def answer(self, message: Routed | Rejected | Acknowledged | Refused) -> None:
        """Send an answer. Raises OSError if the client is gone, TimeoutError if it does not read."""
        if isinstance(message, Rejected | Refused):
            metrics.REJECTED.labels(message.reason).inc()
        await self.tell(message.model_dump_json())


class EventConsumer(Socket):
    """Tell all that happens to jobs, on any socket, to whoever may see them. It listens to nothing."""

    scope_needed = Scope.EVENTS
    permission = "routing.view_routedjob"

    async def begin(self) -> None:
        await self.subscription.join(news.EVERYTHING)
        await super().begin()
