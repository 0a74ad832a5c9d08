"""Pages from elsewhere open no socket, whatever they bring."""

from __future__ import annotations

import pytest
from pytest_django import Settings

from routing.access.admission import subprotocol
from tests.sockets import permitted
from tests.visitors import (
    IN,
    NOT_PERMITTED,
    bearer,
    code,
    handshake,
    issue,
)

pytestmark = pytest.mark.django_db


HOME = [
    *("http://site.example.org", "https://site.example.org", "https://SITE.example.org:8443"),
    *("https://sub.wide.example.org", "https://app.example.net", "https://app.example.net:443"),
]
ELSEWHERE = [
    *("http://app.example.net", "https://app.example.net:444", "https://evil.app.example.net"),
    *("https://site.example.org.evil.net", "https://evil.net/site.example.org", "https://site.example.org@evil.net"),
    *("https://notsite.example.org", "http://localhost", "null", "", "site.example.org", "file://", "http://["),
    *("http://[::1", "http://site.example.org:port", "http://site.example.org:99999"),
    *("http://site.example.org\u00bd", "\u00ff\u00fe"),
]
ORIGINS = dict.fromkeys(HOME, True) | dict.fromkeys(ELSEWHERE, False)


@pytest.fixture
def hosts(settings: Settings) -> Settings:
    settings.ALLOWED_HOSTS = ["site.example.org", ".wide.example.org", "[::1]"]
    settings.ROUTING_SOCKET_ORIGINS = ["https://app.example.net"]
    return settings


@pytest.mark.parametrize(("origin", "at_home"), ORIGINS.items())
def test_a_page_must_come_from_here_whatever_it_brings(origin: str, at_home: bool, hosts: Settings) -> None:
    _, token = issue()
    expected = IN if at_home else NOT_PERMITTED
    header = (b"origin", origin.encode("latin1"))
    assert code(handshake(header, bearer(token))) == expected
    assert code(handshake(header, subprotocols=["access_token", token])) == expected
    assert code(handshake(header, user=permitted("u"))) == expected
    assert code(handshake((b"Origin", b"https://site.example.org"), header, bearer(token))) == expected


def test_an_origin_may_be_an_address(hosts: Settings) -> None:
    _, token = issue()
    assert code(handshake((b"origin", b"http://[::1]:8000"), bearer(token))) == IN
    assert code(handshake((b"origin", b"http://[::2]:8000"), bearer(token))) == NOT_PERMITTED


def test_whoever_has_no_origin_is_no_browser(hosts: Settings) -> None:
    assert code(handshake(bearer(issue()[1]))) == IN


def test_all_hosts_may_be_allowed_but_an_origin_must_be_one(hosts: Settings) -> None:
    hosts.ALLOWED_HOSTS = ["*"]
    _, token = issue()
    assert code(handshake((b"origin", b"https://anywhere.example.com"), bearer(token))) == IN
    assert code(handshake((b"origin", b"http://["), bearer(token))) == NOT_PERMITTED


@pytest.mark.parametrize(("debug", "expected"), [(True, IN), (False, NOT_PERMITTED)])
def test_while_debugging_one_s_own_machine_is_allowed(debug: bool, expected: int, hosts: Settings) -> None:
    del hosts.ROUTING_SOCKET_ORIGINS
    hosts.ALLOWED_HOSTS, hosts.DEBUG = [], debug
    _, token = issue()
    assert code(handshake((b"origin", b"http://localhost:8000"), bearer(token))) == expected
    assert code(handshake((b"origin", b"http://example.org"), bearer(token))) == NOT_PERMITTED


@pytest.mark.parametrize(
    ("offered", "accepted"),
    [([], None), (["v1"], None), (["access_token", "bad"], "access_token"), (["access_token"], "access_token")],
)
def test_a_page_that_offers_its_token_is_accepted_with_that_subprotocol(
    offered: list[str], accepted: str | None
) -> None:
    assert subprotocol(handshake(subprotocols=offered)) == accepted
