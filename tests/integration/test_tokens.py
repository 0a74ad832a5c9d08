"""Tokens: which are taken, how they end, and what operators do with them."""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import jwt
import pytest
from django.conf import settings as django_settings
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from jwt.warnings import InsecureKeyLengthWarning
from pytest_django import Settings

from allowance.types import BadInputError
from routing.access import tokens
from routing.access.tokens import AUDIENCE, Scope, TokenRefused
from routing.models import AccessToken
from tests.clock import DAY, HOUR, NOW, TICK
from tests.factories import stored

pytestmark = pytest.mark.django_db

NOT_OURS = "did not issue this token"


def issue(name: str = "anna", *scopes: str, ttl: dt.timedelta = DAY, now: dt.datetime = NOW) -> tuple[AccessToken, str]:
    return tokens.issue(name, scopes or ["jobs"], ttl, now)


def key() -> bytes:
    return next(tokens._keys())


def signed(row: AccessToken, secret: str | bytes = b"", algorithm: str = "HS256", **changes: object) -> str:
    """Return a token of a row, signed by us or with the `secret`, whatever it claims; None leaves a claim out."""
    claims: dict[str, object] = {"jti": str(row.pk), "sub": row.name, "scope": "jobs", "aud": AUDIENCE}
    claims |= {"exp": row.expires_at.timestamp(), **changes}
    claimed = {name: claim for name, claim in claims.items() if claim is not None}
    return jwt.encode(claimed, "" if algorithm == "none" else secret or key(), algorithm=algorithm)


def refusal(token: str, now: dt.datetime = NOW) -> str:
    """Return why a token is refused."""
    with pytest.raises(TokenRefused) as refused:
        tokens.verify(token, now)
    return str(refused.value)


def test_a_token_says_what_its_row_does_and_is_verified_as_that_row() -> None:
    row, token = issue("anna", "events", "jobs", "events", now=NOW + dt.timedelta(milliseconds=600))
    assert jwt.decode(token, key(), algorithms=["HS256"], audience=AUDIENCE, options={"verify_exp": False}) == {
        "jti": str(row.pk),
        "sub": "anna",
        "aud": "miner-router",
        "scope": "jobs events",
        "iat": NOW.timestamp(),
        "exp": (NOW + DAY).timestamp(),
    }
    assert tokens.verify(token, NOW) == row
    read = AccessToken.objects.get()
    assert (read.pk, read.name, read.scopes, read.revoked_at) == (row.pk, "anna", ["jobs", "events"], None)
    assert (read.issued_at, read.expires_at) == (NOW, NOW + DAY)


def test_the_longest_name_with_all_scopes_makes_a_token_that_is_taken() -> None:
    row, token = issue("\N{GRINNING FACE}" * 64, *Scope)
    assert tokens.verify(token, NOW) == row


def test_no_secret_of_a_token_is_stored() -> None:
    _, token = issue()
    assert token.split(".")[2] not in str(stored())


def test_a_token_expires_at_its_instant() -> None:
    row, token = issue()
    assert tokens.verify(token, NOW + DAY - TICK) == row
    assert refusal(token, NOW + DAY) == f"Token {row.pk} is expired. Ask for a new one."


@pytest.mark.parametrize("hours", [1, 48])
def test_the_earlier_end_counts_be_it_the_row_s_or_the_token_s(hours: int) -> None:
    row, token = issue()
    AccessToken.objects.update(expires_at=NOW + hours * HOUR)
    end = NOW + min(24, hours) * HOUR
    assert tokens.verify(token, end - TICK) == row
    assert "is expired" in refusal(token, end)


def test_the_row_says_what_a_token_is_for() -> None:
    row, token = issue()
    AccessToken.objects.update(scopes=["metrics"])
    assert tokens.verify(token, NOW).scopes == ["metrics"]
    assert tokens.look_up(row.pk, NOW).scopes == ["metrics"]


def test_a_token_can_be_taken_at_its_word() -> None:
    row, token = issue("anna", "jobs", "metrics")
    AccessToken.objects.all().delete()
    claimed = tokens.taken_at_its_word(token, NOW)
    assert (claimed.pk, claimed.name, claimed.scopes) == (row.pk, "anna", ["jobs", "metrics"])
    with pytest.raises(TokenRefused, match="is expired"):
        tokens.taken_at_its_word(token, row.expires_at)


def test_a_token_of_a_row_that_was_deleted_is_refused() -> None:
    row, token = issue()
    AccessToken.objects.all().delete()
    assert refusal(token) == f"Token {row.pk} does not exist here. Ask for a new one."


def test_a_revoked_token_is_refused_also_by_a_clock_that_runs_behind() -> None:
    row, token = issue()
    tokens.revoke("anna", NOW + DAY / 2)
    for now in (NOW, NOW + DAY / 2):
        assert refusal(token, now) == f"Token {row.pk} is revoked. Ask for a new one."
        with pytest.raises(TokenRefused, match="is revoked"):
            tokens.look_up(row.pk, now)


def test_a_clock_that_runs_behind_takes_a_new_token() -> None:
    row, token = issue()
    assert tokens.verify(token, NOW - dt.timedelta(minutes=1)) == row


def encoded(part: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def with_header(token: str, **header: object) -> str:
    """Return a token with another header, under the signature that it had."""
    _, payload, signature = token.split(".")
    return ".".join([encoded({"typ": "JWT", **header}), payload, signature])


def hs512(row: AccessToken, _token: str) -> str:
    with pytest.warns(InsecureKeyLengthWarning):
        return signed(row, algorithm="HS512")


Forge = Callable[[AccessToken, str], str]
FORGED: dict[str, Forge] = {
    "another key": lambda row, _: signed(row, "x" * 32),
    "the secret key itself": lambda row, _: signed(row, django_settings.SECRET_KEY),
    "no algorithm, no signature": lambda row, _: signed(row, algorithm="none"),
    "no algorithm, our signature": lambda _, token: with_header(token, alg="none"),
    "NONE": lambda _, token: with_header(token, alg="NONE"),
    "no alg": lambda _, token: with_header(token),
    "alg is a list": lambda _, token: with_header(token, alg=["HS256"]),
    "alg is null": lambda _, token: with_header(token, alg=None),
    "HS512 with our key": hs512,
    "RS256": lambda _, token: with_header(token, alg="RS256"),
    "detached": lambda _, token: with_header(token, alg="HS256", b64=False, crit=["b64"]),
    "critical": lambda _, token: with_header(token, alg="HS256", crit=["exp"]),
    "another audience": lambda row, _: signed(row, aud="another"),
    "several audiences": lambda row, _: signed(row, aud=[AUDIENCE]),
    "no audience": lambda row, _: signed(row, aud=None),
    "no end": lambda row, _: signed(row, exp=None),
    "an end that is no time": lambda row, _: signed(row, exp="tomorrow"),
    "an end beyond all times": lambda row, _: signed(row, exp=10**30),
    "an end that is no number": lambda row, _: signed(row, exp=float("nan")),
    "no id": lambda row, _: signed(row, jti=None),
    "an id that is no uuid": lambda row, _: signed(row, jti="1"),
    "payload changed": lambda _, token: ".".join([token.split(".")[0], encoded({}), token.split(".")[2]]),
    "signature changed": lambda _, token: token[:-5] + ("A" if token[-5] != "A" else "B") + token[-4:],
    "no signature": lambda _, token: token.rpartition(".")[0] + ".",
    "cut off": lambda _, token: token[:-1],
    "half a character": lambda _, token: token + "\ud800",
    "padded with blanks": lambda _, token: f" {token}\n",
    "too long, but signed": lambda row, _: signed(row, sub="x" * tokens.MAX_TOKEN),
    "too long": lambda _, token: token + "A" * 100_000,
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_a_token_that_is_not_ours_as_it_was_issued_is_refused(forge: Forge) -> None:
    row, token = issue()
    assert tokens.verify(signed(row), NOW) == row
    assert NOT_OURS in refusal(forge(row, token))


def test_a_token_of_ours_with_an_id_that_was_never_issued_is_refused() -> None:
    row, _ = issue()
    assert "does not exist here" in refusal(signed(row, jti=str(uuid4())))


@given(st.text(max_size=50) | st.from_regex(r"[\w-]{1,20}\.[\w-]{0,20}\.[\w-]{0,20}", fullmatch=True))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_refused(text: str) -> None:
    assert NOT_OURS in refusal(text)


@pytest.mark.parametrize(
    "header",
    [b"\xff", b"[]", b"{", b"[" * 1500, b'{"alg": ' + b"9" * 1500 + b"}", b"null", b'{"kid": 1, "alg": "HS256"}'],
)
def test_a_header_that_is_no_header_is_refused(header: bytes) -> None:
    token = base64.urlsafe_b64encode(header).rstrip(b"=").decode() + ".e30.AAAA"
    assert NOT_OURS in refusal(token)


def test_tokens_outlive_a_change_of_the_secret_key_as_long_as_it_is_a_fallback(settings: Settings) -> None:
    old = settings.SECRET_KEY
    row, token = issue()
    settings.SECRET_KEY = "another-" + "y" * 50
    assert NOT_OURS in refusal(token)
    settings.SECRET_KEY_FALLBACKS = ["a-third-" + "z" * 50, old]
    assert tokens.verify(token, NOW) == row
    newer, signed_anew = issue()
    settings.SECRET_KEY_FALLBACKS = []
    assert tokens.verify(signed_anew, NOW) == newer
    assert NOT_OURS in refusal(token)


BAD: dict[str, dict[str, Any]] = {
    "no name": {"name": ""},
    "name too long": {"name": "x" * 65},
    "line break": {"name": "anna\nbert"},
    "escape": {"name": "\x1b[31manna"},
    "null": {"name": "anna\0"},
    "right to left": {"name": "anna\u202e"},
    "half a character": {"name": "\ud800"},
    "blank": {"name": " "},
    "blank after": {"name": "anna "},
    "uuid": {"name": str(UUID(int=1))},
    "no text": {"name": None},
    "no scope": {"scopes": []},
    "unknown scope": {"scopes": ["jobs", "everything"]},
    "bare scope": {"scopes": "jobs"},
    "scope of no kind": {"scopes": [["jobs"]]},
    "at once": {"ttl": dt.timedelta()},
    "less than a second": {"ttl": dt.timedelta(seconds=1) - TICK},
    "before": {"ttl": -DAY},
    "too long": {"ttl": 3650 * DAY + TICK},
    "for good": {"ttl": dt.timedelta.max},
    "no time": {"ttl": 60},
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_bad_input_is_refused_and_nothing_stored(change: dict[str, Any]) -> None:
    with pytest.raises(BadInputError, match="A token"):
        tokens.issue(**{"name": "anna", "scopes": ["jobs"], "ttl": DAY, "now": NOW, **change})
    assert not AccessToken.objects.exists()


@pytest.mark.parametrize("ttl", [dt.timedelta(seconds=1), dt.timedelta(seconds=1.9), 3650 * DAY])
def test_the_shortest_and_the_longest_life_are_as_long_as_they_say(ttl: dt.timedelta) -> None:
    row, token = issue(ttl=ttl)
    assert row.expires_at == NOW + dt.timedelta(seconds=ttl // dt.timedelta(seconds=1))
    assert tokens.verify(token, row.expires_at - TICK) == row


def test_all_live_tokens_of_a_name_are_revoked_and_no_others() -> None:
    (second, _), (first, _) = issue("anna", "metrics", now=NOW + TICK * 10**6), issue()
    bert, _ = issue("bert")
    expired, _ = issue(now=NOW - DAY)
    (before, _) = issue()
    tokens.revoke(before.pk, NOW)
    revoked = tokens.revoke("anna", NOW + DAY / 2)
    assert [row.pk for row in revoked] == [first.pk, second.pk]
    assert {row.revoked_at for row in revoked} == {NOW + DAY / 2}
    expected = {first.pk: NOW + DAY / 2, second.pk: NOW + DAY / 2, bert.pk: None, expired.pk: None, before.pk: NOW}
    assert dict(AccessToken.objects.values_list("pk", "revoked_at")) == expected
    assert tokens.revoke("anna", NOW + DAY / 2) == []


@pytest.mark.parametrize("form", [lambda pk: pk, str, lambda pk: pk.hex, lambda pk: str(pk).upper()])
def test_one_token_is_revoked_by_its_id(form: Callable[[UUID], Any]) -> None:
    (row, token), (_, other) = issue(), issue()
    assert [one.pk for one in tokens.revoke(form(row.pk), NOW)] == [row.pk]
    assert "is revoked" in refusal(token)
    assert tokens.verify(other, NOW).name == "anna"
    assert tokens.revoke(form(row.pk), NOW) == []
    assert tokens.revoke(uuid4(), NOW) == []


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb"])
def test_a_name_that_can_t_be_one_is_not_looked_for(name: str) -> None:
    with pytest.raises(BadInputError):
        tokens.revoke(name)


def test_rotation_keeps_the_newest_token_of_a_name() -> None:
    (old, _), (older, _) = issue(now=NOW - TICK), issue(now=NOW - 2 * TICK)
    (new, token), (bert, _) = issue(now=NOW), issue("bert", now=NOW)
    assert old.issued_at == older.issued_at  # of one second
    assert [row.pk for row in tokens.revoke("anna", NOW, keep_newest=True)] == [older.pk, old.pk]
    assert tokens.verify(token, NOW) == new
    assert {row.pk for row in AccessToken.objects.filter(revoked_at=None)} == {new.pk, bert.pk}
    assert tokens.revoke("anna", NOW, keep_newest=True) == []


def test_rotation_keeps_tokens_for_what_the_newest_is_not_for() -> None:
    metrics, _ = issue("anna", "metrics", now=NOW - 3 * TICK)
    (old, _), (both, _) = issue("anna", "jobs", now=NOW - 2 * TICK), issue("anna", "jobs", "events", now=NOW - TICK)
    new, _ = issue("anna", "jobs", now=NOW)
    assert [row.pk for row in tokens.revoke("anna", NOW, keep_newest=True)] == [old.pk]
    assert {row.pk for row in AccessToken.objects.filter(revoked_at=None)} == {metrics.pk, both.pk, new.pk}


def test_an_id_has_no_newest_token() -> None:
    row, _ = issue()
    with pytest.raises(BadInputError, match="Give the name"):
        tokens.revoke(row.pk, NOW, keep_newest=True)
