"""Read messages and build the answers of the sockets: routes, refusals, acknowledgements.

The functions `to_…` query the database.
"""

from __future__ import annotations

import json
import logging
import re
from typing import NamedTuple

from django import db
from django.core.exceptions import ImproperlyConfigured
from pydantic import ValidationError
from pydantic_core import from_json

from allowance.interface import BadInputError, JobTooLong, LockTimeout, NotEnoughAllowanceException, clock
from routing.access.admission import Visitor
from routing.access.signatures import SignatureRefused
from routing.decision.model import Decision
from routing.requests import MAX_MESSAGE_LENGTH, V2JobRequest, first_problem
from routing.sockets import jobs, metrics, statements
from routing.sockets.hints import SOON, retry_after
from routing.sockets.jobs import Offer
from routing.sockets.messages import (
    INCOMING,
    QUESTIONS,
    REJECTION,
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
    Statement,
    type_of,
)
from routing.types import (
    AllMinersBusy,
    JobAlreadyOver,
    JobTaken,
    JobUnknown,
    NotEnoughCollateralException,
    RouteReleased,
)

STRING = r'"(?:[^"\\]|\\.)*"?'
"""A string of a JSON text. The closing quote is optional. Else the rest of an unclosed string would be scanned once per
quote in it, which is slow."""

STRINGS, TOKENS = re.compile(STRING), re.compile(STRING + "|[][{}]")

logger = logging.getLogger(__name__)

REASONS: dict[type[Exception], Reason] = {
    SignatureRefused: Reason.BAD_SIGNATURE,
    BadInputError: Reason.BAD_MESSAGE,
    JobTooLong: Reason.JOB_TOO_LONG,
    NotEnoughAllowanceException: Reason.NOT_ENOUGH_ALLOWANCE,
    NotEnoughCollateralException: Reason.NOT_ENOUGH_COLLATERAL,
    AllMinersBusy: Reason.ALL_MINERS_BUSY,
    LockTimeout: Reason.LOCK_TIMEOUT,
    JobAlreadyOver: Reason.JOB_ALREADY_OVER,
    JobTaken: Reason.JOB_TAKEN,
    JobUnknown: Reason.JOB_UNKNOWN,
    RouteReleased: Reason.ROUTE_RELEASED,
}

MAX_VALUES = 5000
"""Maximum number of values in a message, at any depth and itself included. A job has a few dozen."""

LARGE = 64 * 1024
"""Length of a message from which it is read in a thread, because that takes long. A job has a few thousand bytes."""

FORESEEN: tuple[type[Exception], ...] = (*REASONS, db.Error, ImproperlyConfigured)

RATE_LIMITED = Refused(
    uuid=None,
    of=None,
    reason=Reason.RATE_LIMITED,
    sentence="This socket sends too many messages in a second. Send fewer messages.",
    retry_after_seconds=SOON,
)


CLIENT_RATE_LIMITED = RATE_LIMITED.model_copy(
    update={"sentence": "This client sends too many messages in a second over all its sockets. Send fewer messages."}
)


class Answer(NamedTuple):
    """A message to send, and the route that it contains, if any. A sender that can't deliver it releases the route.

    `decided` is true if the answer is a route or a decision. This shows that the client may use the job.
    """

    message: Routed | Rejected | Refused
    offer: Offer | None = None
    decided: bool = True

    @property
    def unavailable(self) -> bool:
        """Whether the reason is UNAVAILABLE (a database error or wrong settings), which is not a refusal of the job."""
        return not isinstance(self.message, Routed) and self.message.reason is Reason.UNAVAILABLE


def release_undelivered(answer: Answer) -> None:
    """Release the route of an answer that could not be delivered, if there is one."""
    if answer.offer:
        jobs.release_undelivered(answer.offer)


def to_question(question: V2JobRequest | Retry, by: Visitor) -> Answer:
    """Return the route of a client's job, or why it has none. Only unforeseen errors are raised."""
    try:
        outcome = jobs.route(question, by=by) if isinstance(question, V2JobRequest) else jobs.retry(question, by=by)
        return _rejected(outcome) if isinstance(outcome, Decision) else Answer(_routed(outcome), outcome)
    except FORESEEN as error:
        return Answer(_failed(question, error), decided=False)


def to_statement(statement: Statement, by: Visitor) -> Acknowledged | Rejected | Refused:
    """Return the acknowledgement of a client's statement, or why the statement could not be recorded."""
    reservation = statement.allowance_reservation_id
    try:
        state = statements.note(statement, by=by)
        rejection = statements.rejection(statement, by=by) if isinstance(statement, RejectedByMiner) else None
    except FORESEEN as error:
        return _failed(statement, error)
    logger.info(
        "Job '%s': %s", statement.uuid, statement.type, extra={"job": str(statement.uuid), "reservation": reservation}
    )
    return Acknowledged(
        uuid=statement.uuid,
        of=statement.type,
        allowance_reservation_id=reservation,
        reservation=state,
        incident=isinstance(statement, Failed) or (rejection is not None and not rejection.excused),
        excused=None if rejection is None else rejection.excused,
        sentence=(rejection and rejection.sentence) or None,
    )


def _failed(message: Incoming, error: Exception) -> Refused | Rejected:
    """Return the answer to a message that raised a foreseen error.

    It contains no details of database errors or settings. These go to the log.
    """
    uuid = str(message.uuid)
    if isinstance(error, db.Error):
        logger.error("The database failed on a message about job %.80r.", uuid, extra={"job": uuid}, exc_info=error)
        sentence = "The router's database failed. Send the same message again."
        return _refused(message.type, uuid, Reason.UNAVAILABLE, sentence, SOON)
    if isinstance(error, ImproperlyConfigured):
        logger.error("Wrong settings for job %.80r: %s", uuid, error, extra={"job": uuid})
        sentence = "The router has wrong settings for this job. Ask the operators: the reason is in the log."
        return _refused(message.type, uuid, Reason.UNAVAILABLE, sentence)
    wait = SOON if isinstance(error, LockTimeout) else None
    return _refused(message.type, uuid, _reason(error), str(error), wait)


def read(data: str | bytes) -> Incoming | Refused | Rejected:
    """Return the message in `data`, or the refusal to send if `data` is not a valid message."""
    if (size := len(data if isinstance(data, bytes) else data.encode())) > MAX_MESSAGE_LENGTH:
        return _unreadable(None, f"A message must have at most {MAX_MESSAGE_LENGTH} bytes, not {size}.")
    message, has_too_many = None, _has_too_many_values(data)
    problem = f"A message must have at most {MAX_VALUES} values, itself included."
    if not has_too_many:
        try:
            message = INCOMING.validate_json(data)
        except ValidationError as error:
            problem = first_problem(error)
    if message is None:
        try:
            message = INCOMING.validate_json(_with_no_receipt(data))
        except ValueError:
            return _unreadable(None if has_too_many else data, problem)
    metrics.MESSAGES.labels(message.type).inc()
    return message


def _with_no_receipt(data: str | bytes) -> str:
    """Return a rejection with all receipts that the miner showed replaced by one invalid receipt.

    The miner may show values that pydantic can't parse, such as a number of 5,000 digits, half a surrogate pair, or
    lists nested hundreds of levels deep. The miner may also show more values than are read. The client's statement is
    recorded nevertheless. Raises ValueError for any other message.
    """
    text = data if isinstance(data, str) else data.decode()
    if REJECTION not in text:
        raise ValueError
    message = json.loads(_shallow(text), parse_int=lambda digits: int(digits[:20]))
    if not isinstance(message, dict) or message.get("type") != REJECTION or "receipts" not in message:
        raise ValueError
    return json.dumps({**message, "receipts": [None]})


def _shallow(text: str) -> str:
    """Return a JSON text with null for each list and object in another one. No statement needs them but receipts."""
    kept, depth, start = [], 0, 0
    for token in TOKENS.finditer(text):
        if token[0] in "[{":
            depth += 1
            if depth == 2:
                kept.append(text[start : token.start()])
        elif token[0] in "]}":
            if depth == 2:
                kept.append("null")
                start = token.end()
            depth -= 1
    return "".join(kept) + ("" if depth > 1 else text[start:])


def _has_too_many_values(data: str | bytes) -> bool:
    """Return whether a message has more than MAX_VALUES values, or lists and objects.

    Validation of such a message is slow, because it lists problems value by value. The values in the receipts of a
    rejection are not counted, because their problems are not listed. Their lists and objects count: to make many of
    them is slow, too.
    """
    if len(data) < 2 * MAX_VALUES:  # each value takes at least two characters
        return False
    text = data if isinstance(data, str) else data.decode(errors="replace")
    if _brackets(text) > MAX_VALUES and _brackets(STRINGS.sub("", text)) > MAX_VALUES:
        return True
    try:
        values = [from_json(data)]
    except ValueError:
        return False
    if isinstance(values[0], dict) and values[0].get("type") == REJECTION:
        values[0].pop("receipts", None)
    for value in values:
        if isinstance(value, dict | list):
            values += value.values() if isinstance(value, dict) else value
        if len(values) > MAX_VALUES:
            return True
    return False


def _brackets(text: str) -> int:
    return text.count("[") + text.count("{")


def overloaded(message: Incoming) -> Refused | Rejected:
    """Return the answer to a message that exceeds the number of messages in flight."""
    sentence = (
        "Too many messages of this socket, or of all sockets of this process, are in progress. "
        "Send the same message again, or send fewer messages at once."
    )
    return _refused(message.type, str(message.uuid), Reason.OVERLOADED, sentence, SOON)


def refused_too_often(question: V2JobRequest | Retry, wait: float) -> Refused | Rejected:
    """Return the answer to a client that had too many refusals. It may ask again after `wait` seconds."""
    sentence = (
        "Too many jobs of this client were refused in a minute. The router did not consider this job. Retry later."
    )
    return _refused(question.type, str(question.uuid), Reason.REFUSED_TOO_OFTEN, sentence, wait)


def _unreadable(data: str | bytes | None, sentence: str) -> Refused | Rejected:
    """Return the answer to data that is not a valid message. It names the job if the data has a uuid."""
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
    """Return the refusal of a message: Rejected for a question about a named job, Refused for anything else."""
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
    return Answer(
        Rejected(
            uuid=decision.job.uuid,
            reason=Reason(decision.outcome),
            sentence=str(decision.refusal),
            counts=decision.counts,
            retry_after_seconds=retry_after(decision, clock.now()),
        )
    )


def _reason(error: Exception) -> Reason:
    return next(reason for kind, reason in REASONS.items() if isinstance(error, kind))
