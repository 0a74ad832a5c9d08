"""The socket: a job request in, its route or refusal out."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django import db
from pydantic import ValidationError

from allowance.threads import give_back_later, in_database_thread
from allowance.types import AllowanceException, BadInputError
from routing import routing
from routing.requests import MAX_MESSAGE_LENGTH, V2JobRequest, first_problem
from routing.service import give_back
from routing.types import JobRoute, JobRoutingException

NOT_LOGGED_IN = 4401
NOT_PERMITTED = 4403
INTERNAL_ERROR = 1011
PERMISSION = "routing.route_jobs"
BAD_REQUEST = "BadRequest"
UNAVAILABLE = "Unavailable"

Message = dict[str, object]

logger = logging.getLogger(__name__)


class JobConsumer(AsyncJsonWebsocketConsumer):
    """Route the jobs that a user with the permission `routing.route_jobs` sends.

    Whoever is not logged in is closed with 4401, whoever lacks the permission with 4403.
    """

    admitted = False

    async def connect(self) -> None:
        user = self.scope.get("user")
        await self.accept()  # a close code reaches the client only after this
        async with self.closing_on_failure():
            if user is None or not user.is_authenticated:
                await self.close(NOT_LOGGED_IN)
            elif not await in_database_thread(user.has_perm)(PERMISSION):
                await self.close(NOT_PERMITTED)
            else:
                self.admitted = True

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None, **_kwargs: Any) -> None:
        if self.admitted:
            async with self.closing_on_failure():
                await self.answer(text_data if text_data is not None else bytes_data or b"")

    async def answer(self, message: str | bytes) -> None:
        """Send the route of a job, or why there is none. A route that can't be sent holds nothing any more."""
        outcome = await outcome_of(message)
        try:
            await self.send_json(outcome if isinstance(outcome, dict) else routed(*outcome))
        except BaseException:
            if not isinstance(outcome, dict):
                give_back_later(give_back, outcome[1])
            raise

    @asynccontextmanager
    async def closing_on_failure(self) -> AsyncIterator[None]:
        """Log what nobody foresaw, and end the socket properly: the client must not wait, nor learn what it was."""
        try:
            yield
        except OSError:
            logger.info("A client hung up before it had its answer: %s.", self.scope.get("client"))
        except Exception:
            logger.exception("A socket of %s failed.", self.scope.get("client"))
            with suppress(OSError):
                await self.close(INTERNAL_ERROR)


async def outcome_of(message: str | bytes) -> tuple[str, JobRoute] | Message:
    """Return a job's uuid and its route, or the message that tells why it has none."""
    if len(message) > MAX_MESSAGE_LENGTH:
        return rejected(None, BAD_REQUEST, f"A message has at most {MAX_MESSAGE_LENGTH} bytes, not {len(message)}.")
    try:
        request = V2JobRequest.model_validate_json(message)
    except ValidationError as error:
        return rejected(None, BAD_REQUEST, first_problem(error))
    try:
        return request.uuid, await routing().pick_miner_for_job_request(request)
    except BadInputError as error:
        return rejected(request.uuid, BAD_REQUEST, str(error))
    except (AllowanceException, JobRoutingException) as error:
        return rejected(request.uuid, type(error).__name__, str(error))
    except db.Error:
        logger.exception("No answer from the database for job %r.", request.uuid)
        return rejected(request.uuid, UNAVAILABLE, "The router can't reach its database. Retry.")


def routed(uuid: str, route: JobRoute) -> Message:
    """Return the message that tells where a job goes."""
    return {
        "type": "job.routed",
        "uuid": uuid,
        "miner": {
            "address": route.miner.address,
            "ip_version": route.miner.ip_version,
            "port": route.miner.port,
            "hotkey_ss58": route.miner.hotkey_ss58,
        },
        "allowance_blocks": route.allowance_blocks,
        "allowance_reservation_id": route.allowance_reservation_id,
    }


def rejected(uuid: str | None, reason: str, sentence: str) -> Message:
    """Return the message that tells why a job goes nowhere; `reason` is the name of the refusal."""
    return {"type": "job.rejected", "uuid": uuid, "reason": reason, "sentence": sentence}
