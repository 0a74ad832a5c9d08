"""Tokens for the sockets and the metrics: how they are issued, verified and revoked.

A token is a JWT, but the router only trusts its signature, its id and its expiry. Its scopes and its state are read
from its row at each check, so a revocation takes effect at the next check in any process. New clients are checked at
once, open sockets every ROUTING_SOCKET_RECHECK_SECONDS. While the database is down, the metrics trust the claims of a
token, and open sockets stay open.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator
from enum import StrEnum
from uuid import UUID, uuid4

import jwt
from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.crypto import salted_hmac

from allowance.interface import BadInputError, validation
from allowance.plumbing.database import alias
from allowance.plumbing.errors import RefusedError
from routing.models import AccessToken

ALGORITHM = "HS256"
AUDIENCE = "miner-router"
SALT = "routing.tokens"
MAX_NAME = 64
MAX_TOKEN = 4096
"""Characters. Every issued token is shorter; longer ones are refused without decoding."""

MIN_TTL = dt.timedelta(seconds=1)
MAX_TTL = dt.timedelta(days=3650)


class Scope(StrEnum):
    """What a token permits. ALL_JOBS includes JOBS, and also permits messages about the jobs of other clients."""

    JOBS = "jobs"
    ALL_JOBS = "all-jobs"
    EVENTS = "events"
    METRICS = "metrics"


class State(StrEnum):
    """The state of a token."""

    LIVE = "live"
    EXPIRED = "expired"
    REVOKED = "revoked"


class TokenRefused(RefusedError):
    """A token is not valid. The text may be logged and shown: it can have the token's id, but never the token."""


def issue(
    name: str, scopes: Collection[str], ttl: dt.timedelta, now: dt.datetime | None = None
) -> tuple[AccessToken, str]:
    """Issue a token to the holder `name`. Return its row and the token, which is not stored and can't be read again.

    The token is valid for `ttl`, rounded down to whole seconds, because a JWT has whole seconds. Raises BadInputError.
    """
    if not isinstance(ttl, dt.timedelta) or not MIN_TTL <= ttl <= MAX_TTL:
        raise BadInputError(f"A token must be valid for 1 second to {MAX_TTL.days} days, not {ttl!s:.80}.")
    stored_at = now or timezone.now()
    issued_at = stored_at.replace(microsecond=0)
    row = AccessToken(
        id=uuid4(),
        name=_name(name),
        scopes=_scopes(scopes),
        issued_at=issued_at,
        expires_at=(issued_at + ttl).replace(microsecond=0),
        stored_at=stored_at,
    )
    claims = {
        "jti": str(row.pk),
        "sub": row.name,
        "aud": AUDIENCE,
        "scope": " ".join(row.scopes),
        "iat": row.issued_at,
        "exp": row.expires_at,
    }
    token = jwt.encode(claims, next(_keys()), algorithm=ALGORITHM)
    row.save(force_insert=True)
    return row, token


def verify(token: str, now: dt.datetime | None = None) -> AccessToken:
    """Return the row of a token. Raises TokenRefused if the token is not live."""
    at = now or timezone.now()
    return look_up(taken_at_its_word(token, at).pk, at)


def taken_at_its_word(token: str, now: dt.datetime | None = None) -> AccessToken:
    """Return the claims of a token as an unsaved row, without a query. The token may have been revoked.

    Raises TokenRefused if the signature is wrong or the token has expired.
    """
    claimed = _signed(token)
    if claimed.expires_at <= (now or timezone.now()):
        raise TokenRefused(f"Token {claimed.pk} is {State.EXPIRED}. Ask for a new one.")
    return claimed


def look_up(pk: UUID, now: dt.datetime | None = None) -> AccessToken:
    """Return the row of a token that was verified before. Raises TokenRefused if it is no longer live."""
    row = AccessToken.objects.filter(pk=pk).first()
    if row is None:
        raise TokenRefused(f"Token {pk} does not exist here. Ask for a new one.")
    state = state_at(row, now or timezone.now())
    if state is not State.LIVE:
        raise TokenRefused(f"Token {pk} is {state}. Ask for a new one.")
    return row


def revoke(name_or_id: str | UUID, now: dt.datetime | None = None, *, keep_newest: bool = False) -> list[AccessToken]:
    """Revoke all live tokens of a name, or the token with an id. Return their rows. Raises BadInputError.

    With `keep_newest`, a token of the name is not revoked if it is the newest for one of its scopes.
    """
    at = now or timezone.now()
    pk = _id(name_or_id)
    if keep_newest and pk is not None:
        raise BadInputError("An id names only one token. Give the name of the tokens to keep the newest token.")
    which = Q(name=_name(name_or_id)) if pk is None else Q(pk=pk)
    with transaction.atomic(alias()):
        rows = list(AccessToken.objects.select_for_update().filter(which, live_at(at)).order_by("stored_at", "pk"))
        if keep_newest:
            newest = {scope: row.pk for row in rows for scope in row.scopes}
            rows = [row for row in rows if row.pk not in newest.values()]
        AccessToken.objects.filter(pk__in=[row.pk for row in rows]).update(revoked_at=at)
    for row in rows:
        row.revoked_at = at
    return rows


def state_at(row: AccessToken, now: dt.datetime) -> State:
    """Return the state of a token at `now`. A revoked token is revoked even at a `now` before the revocation."""
    if row.revoked_at is not None:
        return State.REVOKED
    return State.EXPIRED if row.expires_at <= now else State.LIVE


def live_at(now: dt.datetime) -> Q:
    """Return the condition of the tokens that are live at `now`."""
    return Q(revoked_at=None, expires_at__gt=now)


def live_of(name: str, now: dt.datetime | None = None) -> list[AccessToken]:
    """Return the live tokens of a name, the oldest first."""
    return list(AccessToken.objects.filter(live_at(now or timezone.now()), name=name).order_by("stored_at", "pk"))


def described(row: AccessToken) -> str:
    """Return a description of a token for people."""
    return f"Token {row.pk} of {row.name}, for {', '.join(row.scopes)}"


def as_json(row: AccessToken) -> dict[str, object]:
    """Return a description of a token for programs, as JSON values."""
    return {"id": str(row.pk), "name": row.name, "scopes": row.scopes, "expires_at": row.expires_at.isoformat()}


def _signed(token: str) -> AccessToken:
    """Return the claims of a token as an unsaved row. Raises TokenRefused if this router did not sign it."""
    if len(token) <= MAX_TOKEN:
        for key in _keys():
            try:
                claims = jwt.decode(
                    token,
                    key,
                    algorithms=[ALGORITHM],
                    audience=AUDIENCE,
                    # The caller checks the times, because its clock may be pinned.
                    options={
                        "require": ["jti", "sub", "scope", "exp"],
                        "strict_aud": True,
                        "verify_exp": False,
                        "verify_iat": False,
                        "verify_nbf": False,
                    },
                )
                return AccessToken(
                    id=UUID(claims["jti"]),
                    name=claims["sub"],
                    scopes=claims["scope"].split(),
                    expires_at=dt.datetime.fromtimestamp(claims["exp"], dt.UTC),
                )
            except jwt.InvalidSignatureError:
                continue
            except (jwt.InvalidTokenError, TypeError, ValueError, OverflowError, OSError):
                break
    raise TokenRefused("This router did not issue this token. Ask for a new one.")


def _keys() -> Iterator[bytes]:
    """Yield the key that signs new tokens, then the keys of SECRET_KEY_FALLBACKS, which signed older tokens."""
    for secret in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS):
        yield salted_hmac(SALT, AUDIENCE, secret, algorithm="sha256").digest()


def _name(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME or not value.isprintable():
        raise BadInputError(f"A token's name must have 1 to {MAX_NAME} printable characters, not {value!r:.80}.")
    if value != value.strip() or _id(value) is not None:
        raise BadInputError(
            f"A token's name must not begin or end with a blank, and must not be a UUID. It is {value!r:.80}."
        )
    return value


def _id(value: object) -> UUID | None:
    try:
        return validation.job_uuid(value)
    except BadInputError:
        return None


def _scopes(values: Collection[str]) -> list[str]:
    known = [scope.value for scope in Scope]
    unknown = [value for value in values if value not in known]
    if unknown or not values:
        raise BadInputError(f"A token must have one or more of the scopes {', '.join(known)}, not {values!r:.80}.")
    wanted = {*values, Scope.JOBS} if Scope.ALL_JOBS in values else values
    return [scope for scope in known if scope in wanted]
