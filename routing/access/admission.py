"""Who may come in: by a token, or else by a login. Asked at the door, and again and again of whoever stays."""

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
"""How far the codes that close a socket are above the statuses that answer a request."""

SUBPROTOCOL = "access_token"
"""Browsers can't send headers with a socket, so a page offers this subprotocol and then its token as another."""

ALL_JOBS = "routing.route_all_jobs"
"""The permission of users that is what the scope `all-jobs` is to tokens."""

BEARER = re.compile(r"\s*bearer(?:\s+(.*))?", re.ASCII | re.DOTALL | re.IGNORECASE)
"""An Authorization header that brings a token. Nothing follows the token's group, lest blanks be tried one by one."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """A client that is admitted: the holder of a token, or a user. Some may speak of `all_jobs`, not only of theirs."""

    name: str
    token_id: UUID | None = None
    user_pk: Any = None
    all_jobs: bool = False

    @property
    def owner(self) -> str:
        """What a job of this client belongs to: the name of a token, whichever token has it now, or a user.

        The primary key names a user, because a name can change, and another user can take it.
        """
        return f"user:{self.user_pk}" if self.token_id is None else f"token:{self.name}"


class NotAdmitted(Exception):
    """A client is not admitted, or not any more; the message says why, and is told to the client.

    The `code` closes a socket: 4401 for the unknown, 4403 for the unpermitted, 4429 for one socket too many.
    """

    def __init__(self, code: int, sentence: str) -> None:
        self.code = code
        super().__init__(sentence)


def admit(scope: Mapping[str, Any], *, token_scope: Scope, permission: str) -> Visitor:
    """Return who is at the other end of a socket: the holder of a token for `token_scope`, or a user with `permission`.

    A token decides alone, whoever is logged in beside it. Raises NotAdmitted, for pages of foreign origin too.
    """
    _insist_on_no_token_in(scope.get("query_string", b"").decode("latin1"))
    for origin in _headers(scope, b"origin"):
        if not _is_at_home(origin):
            raise NotAdmitted(NOT_PERMITTED, "Pages of that origin may not connect. Add it to ROUTING_SOCKET_ORIGINS.")
    # Several are joined as Django joins them: two tokens are none.
    token = _bearer(",".join(_headers(scope, b"authorization")))
    return _admit(_offered(scope) if token is None else token, scope.get("user"), token_scope, permission)


def recheck(visitor: Visitor, *, token_scope: Scope, permission: str) -> Visitor:
    """Return a client that was admitted before as the database knows it now. Raises NotAdmitted."""
    pk = visitor.token_id
    if pk is not None:
        return _holder(lambda: tokens.look_up(pk), token_scope)
    user = get_user_model()._default_manager.filter(pk=visitor.user_pk).first()
    if user is None:
        raise NotAdmitted(NOT_PERMITTED, "The user is no more.")
    return _user(user, permission)


def turn_away(request: HttpRequest, *, token_scope: Scope, permission: str) -> HttpResponse | None:
    """Return the answer for a request whose sender `admit` would not let in, 401 or 403; None for all others.

    There is no check of the origin: a browser lets no foreign page read what it is answered.
    """
    token, user = _bearer(request.headers.get("Authorization", "")), getattr(request, "user", None)
    return _answer(request, lambda: _admit(token, user, token_scope, permission))


def turn_away_unasked(request: HttpRequest, *, token_scope: Scope) -> HttpResponse | None:
    """Do what `turn_away` does without asking the database: a token is taken at its word, and nobody is logged in."""
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
    """Refuse a token in an address, even a good one: servers and proxies on the way write addresses into their logs."""
    for name, value in parse_qsl(query, keep_blank_values=True):
        if "token" in name.lower() or TOKEN.search(value) or TOKEN.search(name):
            sentence = "Addresses are logged: revoke the token in yours, and send another in the Authorization header."
            raise NotAdmitted(UNKNOWN, sentence)


def subprotocol(scope: Mapping[str, Any]) -> str | None:
    """Return the subprotocol to accept a socket with, even to close it: a browser that offers some insists on one."""
    return SUBPROTOCOL if _offered(scope) is not None else None


def _admit(token: str | None, user: Any, token_scope: Scope, permission: str) -> Visitor:
    return _user(user, permission) if token is None else _holder(lambda: tokens.verify(token), token_scope)


def _holder(find: Callable[[], AccessToken], token_scope: Scope) -> Visitor:
    try:
        row = find()
    except TokenRefused as refusal:
        raise NotAdmitted(UNKNOWN, str(refusal)) from None
    if token_scope not in row.scopes:
        raise NotAdmitted(NOT_PERMITTED, f"Token {row.pk} is not for {token_scope}. Ask for one that is.")
    return Visitor(row.name, token_id=row.pk, all_jobs=Scope.ALL_JOBS in row.scopes)


def _user(user: Any, permission: str) -> Visitor:
    if user is None or not user.is_authenticated:
        raise NotAdmitted(UNKNOWN, "Bring a token, or log in.")
    if not user.is_active or not user.has_perm(permission):
        raise NotAdmitted(NOT_PERMITTED, f"The user is inactive, or lacks the permission {permission}.")
    return Visitor(user.get_username(), user_pk=user.pk, all_jobs=user.has_perm(ALL_JOBS))


def _headers(scope: Mapping[str, Any], name: bytes) -> list[str]:
    return [value.decode("latin1") for header, value in scope.get("headers", ()) if header.lower() == name]


def _bearer(authorization: str) -> str | None:
    """Return the token that a header brings, "" for one without, None if it is for another scheme, as a proxy's."""
    match = BEARER.fullmatch(authorization)
    return match and (match[1] or "").rstrip()


def _offered(scope: Mapping[str, Any]) -> str | None:
    """Return the token that comes as a subprotocol, "" if only that is announced, None if it is not."""
    offered = list(scope.get("subprotocols") or ())
    if SUBPROTOCOL not in offered:
        return None
    return "".join(offered[offered.index(SUBPROTOCOL) + 1 :][:1])


def _is_at_home(origin: str) -> bool:
    application: Any = None  # nobody calls what these validators guard
    hosts = AllowedHostsOriginValidator(application).allowed_origins
    try:
        parsed = urlparse(origin)
        parsed.port  # noqa: B018 (it is parsed only now)
    except ValueError:
        return False
    return OriginValidator(application, [*hosts, *conf.ROUTING_SOCKET_ORIGINS]).valid_origin(parsed)
