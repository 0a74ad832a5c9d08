"""Messages in, and what the sockets answer: routes, refusals, acknowledgements. The answers `to_…` use the database."""

from __future__ import annotations

import logging
from typing import NamedTuple

from django import db
from django.utils import timezone
from pydantic import ValidationError
from pydantic_core import from_json

from allowance.types import BadInputError, JobTooLong, LockTimeout, NotEnoughAllowanceException
from routing import events, jobs, metrics
from routing.hints import SOON, retry_after
from routing.jobs import Offer
from routing.messages import (
    INCOMING,
    QUESTIONS,
    Acknowledged,
    Failed,
    Incoming,
    MinerAddress,
    Reason,
    Refused,
    Rejected,
    RejectedByMiner,
    Retry,
    Routed,
    Said,
    type_of,
)
from routing.pipeline import refusal
from routing.refusals import JobFinished, JobUnknown, RouteGivenUp
from routing.requests import MAX_MESSAGE_LENGTH, V2JobRequest, first_problem
from routing.signatures import SignatureRefused
from routing.types import (
    AllMinersBusy,
    Decision,
    NotEnoughCollateralException,
)

logger = logging.getLogger(__name__)

REASONS: dict[type[Exception], Reason] = {
    SignatureRefused: Reason.BAD_SIGNATURE,
    BadInputError: Reason.BAD_MESSAGE,
    JobTooLong: Reason.JOB_TOO_LONG,
    NotEnoughAllowanceException: Reason.NOT_ENOUGH_ALLOWANCE,
    NotEnoughCollateralException: Reason.NOT_ENOUGH_COLLATERAL,
    AllMinersBusy: Reason.ALL_MINERS_BUSY,
    LockTimeout: Reason.LOCK_TIMEOUT,
    JobFinished: Reason.JOB_FINISHED,
    JobUnknown: Reason.JOB_UNKNOWN,
    RouteGivenUp: Reason.ROUTE_GIVEN_UP,
}

MAX_VALUES = 5000
"""Messages of more values, in lists and objects at any depth, are not read: a job has some dozens."""

FORESEEN: tuple[type[Exception], ...] = (*REASONS, db.Error)

RATE_LIMITED = Refused(
    uuid=None,
    of=None,
    reason=Reason.RATE_LIMITED,
    sentence="This socket sends more messages in a second than it may. Send fewer.",
    retry_after_seconds=SOON,
)


class Answer(NamedTuple):
    """What to send, and the route that it tells of; whoever can't send it gives that back."""

    message: Routed | Rejected | Refused
    offer: Offer | None = None


def give_back(answer: Answer) -> None:
    """Give back the route that could not be told, if there is one."""
    if answer.offer:
        jobs.give_back(answer.offer)


def to_question(question: V2JobRequest | Retry) -> Answer:
    """Return where a job goes, or why nowhere; every refusal is an answer, a mistake of ours is not."""
    try:
        outcome = jobs.route(question) if isinstance(question, V2JobRequest) else jobs.retry(question)
        return _rejected(outcome) if isinstance(outcome, Decision) else Answer(_routed(outcome), outcome)
    except FORESEEN as error:
        return Answer(_failed(question, error))


def to_said(said: Said) -> Acknowledged | Rejected | Refused:
    """Return the acknowledgement of what was said of a job, or why it could not be recorded."""
    reservation = said.allowance_reservation_id
    try:
        state = events.note(said)
        rejection = events.rejection(said) if isinstance(said, RejectedByMiner) else None
    except FORESEEN as error:
        return _failed(said, error)
    logger.info("Job '%s': %s", said.uuid, said.type, extra={"job": str(said.uuid), "reservation": reservation})
    return Acknowledged(
        uuid=said.uuid,
        of=said.type,
        allowance_reservation_id=reservation,
        reservation=state,
        incident=isinstance(said, Failed) or (rejection is not None and not rejection.excused),
        excused=None if rejection is None else rejection.excused,
        sentence=(rejection and rejection.sentence) or None,
    )


def _failed(message: Incoming, error: Exception) -> Refused | Rejected:
    """Return the answer to a message that raised a foreseen error. A client learns nothing of the database's."""
    uuid = str(message.uuid)
    if isinstance(error, db.Error):
        logger.error("No answer from the database for job %.80r.", uuid, extra={"job": uuid}, exc_info=error)
        sentence = "The router can't reach its database. Retry."
        return _refused(message.type, uuid, Reason.UNAVAILABLE, sentence, SOON)
    wait = SOON if isinstance(error, LockTimeout) else None
    return _refused(message.type, uuid, _reason(error), str(error), wait)


def read(data: str | bytes) -> Incoming | Refused | Rejected:
    """Return the message in `data`, or what to answer if it is none."""
    if (size := len(data if isinstance(data, bytes) else data.encode())) > MAX_MESSAGE_LENGTH:
        return _unreadable(None, f"A message has at most {MAX_MESSAGE_LENGTH} bytes, not {size}.")
    if _has_too_many_values(data):
        return _unreadable(None, f"A message has at most {MAX_VALUES} values.")
    try:
        message = INCOMING.validate_json(data)
    except ValidationError as error:
        return _unreadable(data, first_problem(error))
    metrics.MESSAGES.labels(message.type).inc()
    return message


def _has_too_many_values(data: str | bytes) -> bool:
    """Tell whether checking a message would take long: what is wrong with it is listed value by value."""
    if len(data) < 2 * MAX_VALUES:  # each takes two characters
        return False
    try:
        values = [from_json(data)]
    except ValueError:
        return False
    for value in values:
        if isinstance(value, dict | list):
            values += value.values() if isinstance(value, dict) else value
        if len(values) > MAX_VALUES:
            return True
    return False


def overloaded(message: Incoming) -> Refused | Rejected:
    """Return the answer to a message that nobody has time for."""
    sentence = "The router has as much to do as it takes on. Retry, or send fewer messages at once."
    return _refused(message.type, str(message.uuid), Reason.OVERLOADED, sentence, SOON)


def _unreadable(data: str | bytes | None, sentence: str) -> Refused | Rejected:
    """Return the answer to what is no message of ours. It names the job if it can, like that to a good message."""
    metrics.MESSAGES.labels(metrics.UNREADABLE).inc()
    try:
        found = from_json(data or "")
    except ValueError:
        found = None
    uuid = found.get("uuid") if isinstance(found, dict) else None
    return _refused(type_of(found), uuid if isinstance(uuid, str) else None, Reason.BAD_MESSAGE, sentence)


def _refused(
    of: str | None, uuid: str | None, reason: Reason, sentence: str, wait: float | None = None
) -> Refused | Rejected:
    """Return the refusal of a message: a question for a route is rejected, anything else is an error."""
    named = uuid if uuid is None else f"{uuid:.80}"
    if of in QUESTIONS and named is not None:
        return Rejected(uuid=named, reason=reason, sentence=sentence, retry_after_seconds=wait)
    return Refused(uuid=named, of=of, reason=reason, sentence=sentence, retry_after_seconds=wait)


def _routed(offer: Offer) -> Routed:
    miner, route = offer.route.miner, offer.route
    return Routed(
        uuid=offer.uuid,
        miner=MinerAddress(
            address=miner.address, ip_version=miner.ip_version, port=miner.port, hotkey_ss58=miner.hotkey_ss58
        ),
        allowance_blocks=route.allowance_blocks,
        allowance_reservation_id=route.allowance_reservation_id,
        expires_at=offer.expires_at,
    )


def _rejected(decision: Decision) -> Answer:
    error = refusal(decision)
    return Answer(
        Rejected(
            uuid=decision.job.uuid,
            reason=_reason(error),
            sentence=str(error),
            counts=decision.counts,
            retry_after_seconds=retry_after(decision, timezone.now()),
        )
    )


def _reason(error: Exception) -> Reason:
    return next(reason for kind, reason in REASONS.items() if isinstance(error, kind))
