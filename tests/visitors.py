"""Whoever knocks at a socket or a page, with whatever they bring."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

from django.contrib.auth.models import Permission, User
from django.test import Client, RequestFactory

from routing.access import tokens
from routing.access.admission import NotAdmitted, Visitor, admit, recheck, turn_away
from routing.access.tokens import Scope
from routing.models import AccessToken

DAY = dt.timedelta(days=1)
PERMISSION = "routing.route_jobs"
RIGHT: dict[str, Any] = {"token_scope": Scope.JOBS, "permission": PERMISSION}
IN, UNKNOWN, NOT_PERMITTED = 0, 4401, 4403

Someone = Callable[[], object]


def member(*permissions: str) -> User:
    """Return somebody in the staff with these permissions, as `app.codename`, and no others."""
    user, _ = User.objects.get_or_create(username="clerk", is_staff=True)
    names = [name.split(".") for name in permissions]
    user.user_permissions.set(
        [Permission.objects.get(content_type__app_label=app, codename=codename) for app, codename in names]
    )
    return user


def clerk(*permissions: str) -> Client:
    """Return the client of such a member."""
    client = Client()
    client.force_login(member(*permissions))
    return client


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
