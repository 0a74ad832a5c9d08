"""The socket: a job request in, its route or refusal out."""

from __future__ import annotations

import logging
from typing import Any

from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.db import DatabaseError
from pydantic import ValidationError

from allowance.threads import in_database_thread
from allowance.types import AllowanceException
from routing import routing
from routing.requests import V2JobRequest, first_problem
from routing.types import JobRoute, JobRoutingException

NOT_LOGGED_IN = 4401
NOT_PERMITTED = 4403
PERMISSION = "routing.route_jobs"
BAD_REQUEST = "BadRequest"
UNAVAILABLE = "Unavailable"

logger = logging.getLogger(__name__)


class JobConsumer(AsyncJsonWebsocketConsumer):
    """Route the jobs that a user with the permission `routing.route_jobs` sends.

    Whoever is not logged in is closed with 4401, whoever lacks the permission with 4403.
    """

    admitted = False

    async def connect(self) -> None:
        user = self.scope.get("user")
        await self.accept()  # a close code reaches the client only after this
        if user is None or not user.is_authenticated:
            await self.close(NOT_LOGGED_IN)
        elif not await in_database_thread(user.has_perm)(PERMISSION):
            await self.close(NOT_PERMITTED)
        else:
            self.admitted = True

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None, **_kwargs: Any) -> None:
        if not self.admitted:
            return
        try:
            request = V2JobRequest.model_validate_json(text_data if text_data is not None else bytes_data or b"")
        except ValidationError as error:
            await self.send_json(rejected(None, BAD_REQUEST, first_problem(error)))
            return
        try:
            route = await routing().pick_miner_for_job_request(request)
        except ValueError as error:
            await self.send_json(rejected(request.uuid, BAD_REQUEST, str(error)))
        except (AllowanceException, JobRoutingException) as error:
            await self.send_json(rejected(request.uuid, type(error).__name__, str(error)))
        except DatabaseError:
            logger.exception("No answer from the database for job %s.", request.uuid)
            await self.send_json(rejected(request.uuid, UNAVAILABLE, "The router can't reach its database. Retry."))
        else:
            await self.send_json(routed(request.uuid, route))


def routed(uuid: str, route: JobRoute) -> dict[str, object]:
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


def rejected(uuid: str | None, reason: str, sentence: str) -> dict[str, object]:
    """Return the message that tells why a job goes nowhere; `reason` is the name of the refusal."""
    return {"type": "job.rejected", "uuid": uuid, "reason": reason, "sentence": sentence}
