"""Jobs that came over a socket, without the socket."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

from allowance.models import Reservation
from routing.access.admission import Visitor
from routing.requests import V2JobRequest
from routing.sockets import answers, jobs, statements
from routing.sockets.jobs import Offer
from routing.sockets.messages import Accepted, Acknowledged, Finished, Rejected, Retry, Started

MINERS = ("anna", "bert", "carl")
VALIDATOR = "our-validator"
ME = Visitor("me", token_id=UUID(int=1))
"""The client whose jobs these are."""

HOLD = dt.timedelta(seconds=130)
"""How long a job of 30 s is held."""


route = partial(jobs.route, by=ME)
retry = partial(jobs.retry, by=ME)
note = partial(statements.note, by=ME)


def routed(request: V2JobRequest, *, now: dt.datetime | None = None, by: Visitor = ME) -> Offer:
    outcome = jobs.route(request, now=now, by=by)
    assert isinstance(outcome, Offer)
    return outcome


def retried(offer: Offer, *, now: dt.datetime | None = None, by: Visitor = ME) -> Offer:
    outcome = jobs.retry(of(offer, Retry), now=now, by=by)
    assert isinstance(outcome, Offer)
    return outcome


def of(offer: Offer, kind: Callable[..., Any], **more: object) -> Any:
    """Return a message about a job and its route."""
    if kind in {Started, Accepted, Finished}:
        more = {"validator_hotkey": VALIDATOR, **more}
    if kind is Finished:
        more = {"time_took_us": 1, **more}
    return kind(uuid=offer.uuid, allowance_reservation_id=offer.route.allowance_reservation_id, **more)


def states() -> dict[str, str]:
    """Return what became of each miner's reservation."""
    return dict(Reservation.objects.order_by("created_at").values_list("account__miner", "state"))


def rejected(request: V2JobRequest) -> Rejected:
    """Ask for a job over a socket, and return how it is rejected."""
    answer = answers.to_question(request, ME).message
    assert isinstance(answer, Rejected)
    return answer


def acknowledged(message: Any) -> Acknowledged:
    """Say something of a job over a socket, and return how it is acknowledged."""
    answer = answers.to_statement(message, ME)
    assert isinstance(answer, Acknowledged)
    return answer
