"""The admission of clients, by a token or else by a login.

The admission is checked when a client connects, and again at intervals while a socket is open.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlparse
from uuid import UUID

from channels.security.websocket import AllowedHostsOriginValidator, OriginValidator
from django.contrib.auth import get_user_model
from django.http import HttpRequest, HttpResponse

from routing.access import tokens
from routing.access.logs import TOKEN
from routing.access.tokens import Scope, TokenRefused
from routing.conf import conf
from routing.models import AccessToken

UNKNOWN = 4401
NOT_PERMITTED = 4403
TOO_MANY = 4429
HTTP = 4000
"""The difference between the code that closes a socket and the HTTP status of the same refusal."""

SUBPROTOCOL = "access_token"
"""Browsers can't send headers with a socket. A page offers this subprotocol, and its token as the next subprotocol."""

ALL_JOBS = "routing.route_all_jobs"
"""The permission that gives a user the right that the scope `all-jobs` gives the holder of a token."""

BEARER = re.compile(r"\s*bearer(?:\s+(.*))?", re.ASCII | re.DOTALL | re.IGNORECASE)
"""An Authorization header with the scheme Bearer. The token's group is last, so that blanks cause no backtracking."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """An admitted client: the holder of a token, or a user.

    With `all_jobs` it may make statements about the jobs of all clients, not only about its own.
    """

    name: str
    token_id: UUID | None = None
    user_pk: Any = None
    all_jobs: bool = False

    @property
    def owner(self) -> str:
        """The owner of this client's jobs: the name of its token, or its user.

        All tokens of a name are one owner. A user is identified by the primary key, because a user name can change and
        another user can take it.
        """
        return f"user:{self.user_pk}" if self.token_id is None else f"token:{self.name}"


class NotAdmitted(Exception):
    """A client is not admitted, or no longer admitted. The message says why, and is sent to the client.

    `code` closes a socket: 4401 for an unknown client, 4403 for one without permission, 4429 for one with too many
    sockets.
    """

    def __init__(self, code: int, sentence: str) -> None:
        self.code = code
        super().__init__(sentence)


def admit(scope: Mapping[str, Any], *, token_scope: Scope, permission: str) -> Visitor:
    """Return the client of a socket: the holder of a token for `token_scope`, or a user with `permission`.

    If there is a token, it alone decides, even if a user is logged in. Raises NotAdmitted, also for pages of a foreign
    origin.
    """
    _insist_on_no_token_in(scope.get("query_string", b"").decode("latin1"))
    for origin in _headers(scope, b"origin"):
        if not _is_at_home(origin):
            raise NotAdmitted(
                NOT_PERMITTED,
                "Pages of this origin may not connect. Ask the operator to add it to ROUTING_SOCKET_ORIGINS.",
            )
    # Several headers are joined as Django joins them. Two tokens are therefore invalid.
    token = _bearer(",".join(_headers(scope, b"authorization")))
    return _admit(_offered(scope) if token is None else token, scope.get("user"), token_scope, permission)


def recheck(visitor: Visitor, *, token_scope: Scope, permission: str) -> Visitor:
    """Return an admitted client with its current rights in the database. Raises NotAdmitted if it has lost them."""
    pk = visitor.token_id
    if pk is not None:
        return _holder(lambda: tokens.look_up(pk), token_scope)
    user = get_user_model()._default_manager.filter(pk=visitor.user_pk).first()
    if user is None:
        raise NotAdmitted(NOT_PERMITTED, "The user no longer exists. Log in as another user.")
    return _user(user, permission)


def turn_away(request: HttpRequest, *, token_scope: Scope, permission: str) -> HttpResponse | None:
    """Return the response, 401 or 403, to a request of a client that is not admitted; None for an admitted one.

    The origin is not checked, because a browser does not let pages of a foreign origin read the response.
    """
    token, user = _bearer(request.headers.get("Authorization", "")), getattr(request, "user", None)
    return _answer(request, lambda: _admit(token, user, token_scope, permission))


def turn_away_unasked(request: HttpRequest, *, token_scope: Scope) -> HttpResponse | None:
    """Do the same as `turn_away` without a query: trust the claims of a token. A login does not count."""
    token = _bearer(request.headers.get("Authorization", ""))
    return _answer(request, lambda: _holder(lambda: tokens.taken_at_its_word(token or ""), token_scope))


def _answer(request: HttpRequest, admit: Callable[[], Visitor]) -> HttpResponse | None:
    try:
        _insist_on_no_token_in(request.META.get("QUERY_STRING", ""))
        admit()
    except NotAdmitted as refusal:
        known = {} if refusal.code == NOT_PERMITTED else {"WWW-Authenticate": "Bearer"}
        return HttpResponse(f"{refusal}\n", status=refusal.code - HTTP, content_type="text/plain", headers=known)
    return None


def _insist_on_no_token_in(query: str) -> None:
    """Raise NotAdmitted if a query has a token, or a parameter named like one: servers and proxies log addresses."""
    for name, value in parse_qsl(query, keep_blank_values=True):
        if "token" in name.lower() or TOKEN.search(value) or TOKEN.search(name):
            sentence = (
                "Servers log addresses. Send the token in the Authorization header. "
                "Revoke it if it was in this address."
            )
            raise NotAdmitted(UNKNOWN, sentence)


def subprotocol(scope: Mapping[str, Any]) -> str | None:
    """Return the subprotocol with which to accept a socket, None if SUBPROTOCOL is not offered.

    A browser that offers subprotocols requires one in the answer, even if the socket is closed at once.
    """
    return SUBPROTOCOL if _offered(scope) is not None else None


def _admit(token: str | None, user: Any, token_scope: Scope, permission: str) -> Visitor:
    return _user(user, permission) if token is None else _holder(lambda: tokens.verify(token), token_scope)


def _holder(find: Callable[[], AccessToken], token_scope: Scope) -> Visitor:
    try:
        row = find()
    except TokenRefused as refusal:
        raise NotAdmitted(UNKNOWN, str(refusal)) from None
    if token_scope not in row.scopes:
        raise NotAdmitted(
            NOT_PERMITTED, f"Token {row.pk} does not have the scope {token_scope}. Ask for a token with this scope."
        )
    return Visitor(row.name, token_id=row.pk, all_jobs=Scope.ALL_JOBS in row.scopes)


def _user(user: Any, permission: str) -> Visitor:
    if user is None or not user.is_authenticated:
        raise NotAdmitted(UNKNOWN, "Authentication required: send a token or log in.")
    if not user.is_active or not user.has_perm(permission):
        raise NotAdmitted(
            NOT_PERMITTED, f"The user is inactive or does not have the permission {permission}. Ask the operator."
        )
    return Visitor(user.get_username(), user_pk=user.pk, all_jobs=user.has_perm(ALL_JOBS))


def _headers(scope: Mapping[str, Any], name: bytes) -> list[str]:
    return [value.decode("latin1") for header, value in scope.get("headers", ()) if header.lower() == name]


def _bearer(authorization: str) -> str | None:
    """Return the token in an Authorization header.

    Return "" if the scheme has no token. Return None if the header is missing or empty, or has another scheme, such as
    a proxy's.
    """
    match = BEARER.fullmatch(authorization)
    return match and (match[1] or "").rstrip()


def _offered(scope: Mapping[str, Any]) -> str | None:
    """Return the token that follows SUBPROTOCOL, "" if none follows, None if SUBPROTOCOL is not offered."""
    offered = list(scope.get("subprotocols") or ())
    if SUBPROTOCOL not in offered:
        return None
    return "".join(offered[offered.index(SUBPROTOCOL) + 1 :][:1])


def _is_at_home(origin: str) -> bool:
    application: Any = None  # the validators only check the origin, and never call the application
    hosts = AllowedHostsOriginValidator(application).allowed_origins
    try:
        parsed = urlparse(origin)
        parsed.port  # noqa: B018 (reading the attribute checks the port)
    except ValueError:
        return False
    return OriginValidator(application, [*hosts, *conf.ROUTING_SOCKET_ORIGINS]).valid_origin(parsed)
