"""Whoever knocks at a socket or a page, with whatever they bring."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

from django.test import RequestFactory

from routing import tokens
from routing.admission import NotAdmitted, Visitor, admit, recheck, turn_away
from routing.models import AccessToken
from routing.tokens import Scope

DAY = dt.timedelta(days=1)
PERMISSION = "routing.route_jobs"
RIGHT: dict[str, Any] = {"token_scope": Scope.JOBS, "permission": PERMISSION}
IN, UNKNOWN, NOT_PERMITTED = 0, 4401, 4403

Someone = Callable[[], object]


def issue(*scopes: str, name: str = "anna") -> tuple[AccessToken, str]:
    return tokens.issue(name, scopes or ["jobs"], DAY)


def handshake(*headers: tuple[bytes, bytes], subprotocols: Sequence[str] = (), user: object = None) -> dict[str, Any]:
    return {"type": "websocket", "headers": list(headers), "subprotocols": list(subprotocols), "user": user}


def bearer(token: str) -> tuple[bytes, bytes]:
    return b"authorization", b"Bearer " + token.encode()


def code(scope: dict[str, Any]) -> int:
    """Return the code with which a socket would be closed, or IN."""
    try:
        admit(scope, **RIGHT)
    except NotAdmitted as refusal:
        return refusal.code
    return IN


def code_later(visitor: Visitor) -> int:
    """Return the code with which an open socket would be closed, or IN."""
    try:
        recheck(visitor, **RIGHT)
    except NotAdmitted as refusal:
        return refusal.code
    return IN


def status(authorization: str | None = None, *, user: object = None) -> int:
    """Return the status that a page would be refused with, or IN."""
    headers = {} if authorization is None else {"Authorization": authorization}
    request: Any = RequestFactory().get("/", headers=headers)
    request.user = user
    answer = turn_away(request, **RIGHT)
    return IN if answer is None else answer.status_code
