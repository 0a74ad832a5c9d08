"""Who is let in, and who may stay: the same at a socket and at a page."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from typing import Any

import pytest
import time_machine
from django.contrib.auth.backends import BaseBackend
from django.contrib.auth.models import AnonymousUser, Group, Permission, User
from django.test import RequestFactory
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pytest_django import Settings

from routing.access import tokens
from routing.access.admission import NotAdmitted, Visitor, admit, turn_away
from routing.models import AccessToken
from routing.sockets.base import LONGEST_REASON
from tests.sockets import permitted
from tests.visitors import (
    IN,
    NOT_PERMITTED,
    PERMISSION,
    RIGHT,
    UNKNOWN,
    Someone,
    bearer,
    code,
    code_later,
    handshake,
    issue,
    status,
)

pytestmark = pytest.mark.django_db


def test_a_token_opens_by_header_or_as_a_subprotocol() -> None:
    row, token = issue("jobs", "events")
    anna = Visitor("anna", token_id=row.pk)
    assert admit(handshake(bearer(token)), **RIGHT) == anna
    assert admit(handshake(subprotocols=["access_token", token]), **RIGHT) == anna
    assert admit(handshake(subprotocols=["v1", "access_token", token, "v2"]), **RIGHT) == anna
    for form in (b"bearer %s", b"BEARER %s", b"Bearer   %s ", b"Bearer\t%s"):
        assert admit(handshake((b"Authorization", form % token.encode())), **RIGHT) == anna


def test_the_header_s_token_wins_over_the_subprotocol_s() -> None:
    _, token = issue()
    assert code(handshake(bearer(token), subprotocols=["access_token", "bad"])) == IN
    assert code(handshake(bearer("bad"), subprotocols=["access_token", token])) == UNKNOWN


def test_a_token_for_something_else_does_not_open() -> None:
    row, token = issue("events", "metrics")
    assert code(handshake(bearer(token))) == NOT_PERMITTED
    assert code(handshake(subprotocols=["access_token", token])) == NOT_PERMITTED
    assert status(f"Bearer {token}") == 403
    with pytest.raises(NotAdmitted, match=f"Token {row.pk} does not have the scope jobs"):
        admit(handshake(bearer(token)), **RIGHT)


def test_a_token_that_is_revoked_expired_or_deleted_does_not_open() -> None:
    row, token = issue()
    with time_machine.travel(row.expires_at, tick=False):
        assert code(handshake(bearer(token))) == UNKNOWN
    tokens.revoke(row.pk)
    assert code(handshake(bearer(token))) == UNKNOWN
    AccessToken.objects.all().delete()
    assert code(handshake(bearer(token))) == UNKNOWN


WHO: dict[str, tuple[Someone, int]] = {
    "nobody": (lambda: None, UNKNOWN),
    "anonymous": (AnonymousUser, UNKNOWN),
    "a user without the permission": (lambda: User.objects.create_user("u"), NOT_PERMITTED),
    "a user with another permission": (lambda: permitted("u", "view_minerincident"), NOT_PERMITTED),
    "a user with the permission": (lambda: permitted("u"), IN),
    "an inactive user with the permission": (lambda: inactive(permitted("u")), NOT_PERMITTED),
    "a superuser": (lambda: User.objects.create_superuser("u"), IN),
    "an inactive superuser": (lambda: inactive(User.objects.create_superuser("u")), NOT_PERMITTED),
    "a user whose group has the permission": (lambda: grouped(User.objects.create_user("u")), IN),
}


def inactive(user: User) -> User:
    user.is_active = False
    user.save()
    return user


def grouped(user: User) -> User:
    group = Group.objects.create(name="facilitators")
    group.permissions.add(Permission.objects.get(codename="route_jobs"))
    user.groups.add(group)
    return user


@pytest.mark.parametrize(("who", "expected"), WHO.values(), ids=WHO)
def test_without_a_token_the_login_decides(who: Someone, expected: int) -> None:
    user = who()
    assert code(handshake(user=user)) == expected
    assert status(user=user) == (expected and expected - 4000)


class Generous(BaseBackend):
    """Permits everything to everybody, as a site's own backend may."""

    def has_perm(self, user_obj: object, perm: str, obj: object = None) -> bool:
        return True


def test_who_is_inactive_or_not_logged_in_stays_outside_whatever_a_backend_permits(settings: Settings) -> None:
    settings.AUTHENTICATION_BACKENDS = [f"{__name__}.Generous"]
    user = User.objects.create_user("u")
    assert code(handshake(user=user)) == IN
    visitor = admit(handshake(user=user), **RIGHT)
    assert code(handshake(user=inactive(user))) == code_later(visitor) == NOT_PERMITTED
    assert code(handshake(user=AnonymousUser())) == UNKNOWN


@pytest.mark.parametrize("who", ["a user with the permission", "a superuser"])
def test_a_bad_token_is_not_made_good_by_a_login_beside_it(who: str) -> None:
    user = WHO[who][0]()
    _, other = issue("events")
    for given_token, expected in (("bad", UNKNOWN), ("", UNKNOWN), (other, NOT_PERMITTED)):
        assert code(handshake(bearer(given_token), user=user)) == expected
        assert code(handshake(subprotocols=["access_token", given_token], user=user)) == expected
        assert status(f"Bearer {given_token}", user=user) == expected - 4000
    assert code(handshake((b"authorization", b"Bearer"), user=user)) == UNKNOWN
    assert code(handshake(subprotocols=["access_token"], user=user)) == UNKNOWN


def test_a_good_token_is_not_made_bad_by_a_login_beside_it() -> None:
    row, token = issue()
    user = WHO["a user without the permission"][0]()
    assert admit(handshake(bearer(token), user=user), **RIGHT) == Visitor("anna", token_id=row.pk)
    assert status(f"Bearer {token}", user=user) == IN


def test_an_authorization_of_another_scheme_is_none_of_ours() -> None:
    user = permitted("u")
    assert admit(handshake((b"authorization", b"Basic YTpi"), user=user), **RIGHT) == Visitor("u", user_pk=user.pk)
    assert status("Basic YTpi", user=user) == IN
    assert code(handshake((b"authorization", b"Basic YTpi"))) == UNKNOWN


def test_two_tokens_are_none() -> None:
    _, token = issue()
    assert code(handshake(bearer(token), bearer(token))) == UNKNOWN
    assert status(f"Bearer {token},Bearer {token}") == 401


GARBAGE = [
    b"", b" ", b"Bearer", b"bearer ", b"Bearer\0", b"Bearer \xff\xfe\x00", b"Bearer " + "ключ".encode(), b"\xff" * 99,
    b"Bearer ..", b"Bearer a.b.c", b"Bearer a b c", b"Bearer\r\nX: y", b"Bearer \xa0", b"Bearer\xa0x", b"Bearerx",
    b"Bearer " + b"A" * 100_000, b"Bearer " + b"." * 100_000, b"Bearer" + b" " * 100_000 + b"x", b"Basic", b"Digest x=",
    b"Bearer x" + b" " * 100_000 + b"x",
]  # fmt: skip


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_refused_and_nothing_logged(garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for headers in ([garbage], [garbage, garbage], [garbage, b"Bearer x"]):
        assert code(handshake(*((b"authorization", header) for header in headers))) == UNKNOWN
    assert code(handshake(subprotocols=["access_token", garbage.decode("latin1")])) == UNKNOWN
    assert status(garbage.decode("latin1")) == 401
    assert not [record for record in caplog.records if not record.name.startswith("django.db")]


@given(st.lists(st.binary(max_size=40) | st.binary(max_size=40).map(lambda tail: b"Bearer " + tail), max_size=3))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_refused(headers: list[bytes]) -> None:
    assert code(handshake(*((b"authorization", header) for header in headers))) == UNKNOWN
    assert status(",".join(header.decode("latin1") for header in headers)) == 401


@given(st.binary(max_size=40) | st.binary(max_size=40).map(lambda tail: b"http://" + tail))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_no_origin(origin: bytes) -> None:
    assert code(handshake((b"origin", origin))) in (NOT_PERMITTED, UNKNOWN)


@given(st.lists(st.text(max_size=20) | st.just("access_token"), max_size=4))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_subprotocols_are_refused(subprotocols: list[str]) -> None:
    assert code(handshake(subprotocols=subprotocols)) == UNKNOWN


def test_no_refusal_has_the_token_that_was_refused() -> None:
    for given_token in (issue("events")[1], "x" * 40):
        with pytest.raises(NotAdmitted) as refused:
            admit(handshake(bearer(given_token)), **RIGHT)
        assert given_token not in str(refused.value)


def test_a_token_is_looked_at_again() -> None:
    row, token = issue()
    visitor = admit(handshake(bearer(token)), **RIGHT)
    with time_machine.travel(row.expires_at - dt.timedelta(microseconds=1), tick=False):
        assert code_later(visitor) == IN
    with time_machine.travel(row.expires_at, tick=False):
        assert code_later(visitor) == UNKNOWN
    AccessToken.objects.update(scopes=["events"])
    assert code_later(visitor) == NOT_PERMITTED
    AccessToken.objects.update(scopes=["jobs"])
    assert code_later(visitor) == IN
    tokens.revoke("anna")
    assert code_later(visitor) == UNKNOWN
    AccessToken.objects.all().delete()
    assert code_later(visitor) == UNKNOWN


LOSSES: dict[str, Callable[[User], object]] = {
    "inactive": inactive,
    "without the permission": lambda user: user.user_permissions.clear(),
    "deleted": lambda user: user.delete(),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_user_is_looked_at_again(loss: Callable[[User], object]) -> None:
    user = permitted("u")
    visitor = admit(handshake(user=user), **RIGHT)
    assert visitor == Visitor("u", user_pk=user.pk)
    assert code_later(visitor) == IN
    loss(User.objects.get(pk=user.pk))
    assert user.has_perm(PERMISSION)  # as this object remembers it
    assert code_later(visitor) == NOT_PERMITTED


def test_a_page_is_told_why_it_was_refused_and_what_to_bring() -> None:
    request: Any = RequestFactory().get("/")  # no middleware has looked for a user
    answer = turn_away(request, **RIGHT)
    assert answer is not None
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert (answer.headers["Content-Type"], answer.content) == (
        "text/plain",
        b"Authentication required: send a token or log in.\n",
    )
    request.user = User.objects.create_user("u")
    answer = turn_away(request, **RIGHT)
    assert answer is not None
    assert (answer.status_code, "WWW-Authenticate" in answer.headers) == (403, False)
    assert PERMISSION in answer.content.decode()


QUERIES = ["token=", "token=x", "a=b&access_token=x", "Token=x", "x={}", "{}", "%74oken=x", "auth=Bearer+{}"]


@pytest.mark.parametrize("query", QUERIES)
def test_a_token_in_an_address_opens_nothing(query: str) -> None:
    _, token = issue()
    scope = {**handshake(bearer(token)), "query_string": query.format(token).encode()}
    with pytest.raises(NotAdmitted, match="Revoke it if it was in this address") as refused:
        admit(scope, **RIGHT)
    assert refused.value.code == UNKNOWN
    assert len(str(refused.value)) <= LONGEST_REASON
    request = RequestFactory().get(f"/metrics?{query.format(token)}", headers={"Authorization": f"Bearer {token}"})
    answer = turn_away(request, **RIGHT)
    assert answer is not None
    assert answer.status_code == 401
    assert b"Revoke it if it was in this address" in answer.content


@pytest.mark.parametrize("query", ["", "a=b", "name[]=router_pick", "?"])
def test_other_queries_do_no_harm(query: str) -> None:
    _, token = issue()
    admit({**handshake(bearer(token)), "query_string": query.encode()}, **RIGHT)
