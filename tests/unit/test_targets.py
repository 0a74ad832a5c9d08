"""Which of the addresses that others name this host connects to."""

# ruff: noqa: S104 (addresses that others name, not where we listen)

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from allowance.plumbing import targets
from allowance.plumbing.errors import RefusedError
from allowance.plumbing.targets import ForbiddenTarget, resolve, why_forbidden

PUBLIC = ["8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.0", "172.32.0.1", "2600::1", "2a00:1450:4001:81b::200e"]
PRIVATE = ["127.0.0.1", "127.8.8.8", "10.0.0.1", "172.31.255.255", "192.168.1.1", "169.254.7.7", "100.64.0.1", "::1"]
PRIVATE += ["fe80::1", "fc00::1", "fdff::1"]
NEVER = ["0.0.0.0", "0.1.2.3", "::", "224.0.0.1", "239.1.1.1", "255.255.255.255", "240.0.0.1", "192.0.0.192", "ff02::1"]
NEVER += ["198.18.0.1", "203.0.113.5", "192.0.2.1", "198.51.100.1", "2001:db8::1", "2001:20::1", "100::1", "4000::1"]
METADATA = ["169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254"]
EMBEDDING = ["::", "::ffff:0:0", "::ffff:0:0:0", "64:ff9b::", "64:ff9b:1::"]
"""IPv6 prefixes whose last 32 bits are an IPv4 address."""


class Names:
    """A resolver that knows some names, and counts the questions."""

    def __init__(self, **known: Sequence[str]) -> None:
        self.known, self.asked = known, 0

    def getaddrinfo(self, name: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        self.asked += 1
        if name not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.known[name]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names(public=["8.8.8.8", "2600::1"], mixed=["8.8.8.8", "10.0.0.1"], inside=["127.0.0.1"])
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    return names


@pytest.mark.parametrize("address", PUBLIC)
async def test_a_public_address_is_allowed(address: str) -> None:
    assert await resolve(address, 8000, allow_private=False) == address


@pytest.mark.parametrize("address", [*PRIVATE, *NEVER, *METADATA])
async def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    with pytest.raises(ForbiddenTarget) as refused:
        await resolve(address, 8000, allow_private=False)
    assert (refused.value.address, refused.value.port) == (address, 8000)
    assert refused.value.reason
    assert refused.value.reason in str(refused.value)
    assert isinstance(refused.value, RefusedError)


@pytest.mark.parametrize("address", PRIVATE)
async def test_private_addresses_are_allowed_if_the_site_says_so(address: str) -> None:
    assert await resolve(address, 8000, allow_private=True) == address


@pytest.mark.parametrize("address", [*NEVER, *METADATA])
async def test_some_addresses_are_never_allowed(address: str) -> None:
    with pytest.raises(ForbiddenTarget):
        await resolve(address, 8000, allow_private=True)


@pytest.mark.parametrize("port", [0, -1, 65_536, 10**9])
async def test_a_port_that_does_not_exist_is_refused(port: int) -> None:
    with pytest.raises(ForbiddenTarget):
        await resolve("8.8.8.8", port, allow_private=True)


async def test_a_host_name_is_resolved_once(names: Names) -> None:
    assert await resolve("public", 8000, allow_private=False) == "8.8.8.8"
    assert names.asked == 1


@pytest.mark.parametrize("name", ["mixed", "inside"])
async def test_a_host_name_is_refused_for_any_of_its_addresses(names: Names, name: str) -> None:
    with pytest.raises(ForbiddenTarget) as refused:
        await resolve(name, 8000, allow_private=False)
    assert name in refused.value.address
    assert refused.value.reason in {"it is private", "it is loopback"}


async def test_an_unknown_host_name_is_an_os_error(names: Names) -> None:
    with pytest.raises(OSError, match="not known"):
        await resolve("unknown", 8000, allow_private=False)


@pytest.mark.parametrize("number", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0x7f.1", "localhost"])
async def test_other_forms_of_loopback_are_refused(number: str) -> None:
    with pytest.raises((ForbiddenTarget, OSError)):
        await resolve(number, 8000, allow_private=False)


@pytest.mark.parametrize(
    "text", ["", " ", "8.8.8.8 ", "[::1]", "a b", "a..b", ".a", "-a", "é", "٨.8.8.8", "a\0", "a" * 64]
)
async def test_what_is_no_address_is_refused(names: Names, text: str) -> None:
    with pytest.raises(ForbiddenTarget):
        await resolve(text, 8000, allow_private=True)
    assert names.asked == 0


@pytest.mark.parametrize("address", ["fe80::1%eth0", "2600::1%eth0"])
async def test_an_address_with_an_interface_is_refused(address: str) -> None:
    with pytest.raises(ForbiddenTarget):
        await resolve(address, 8000, allow_private=True)


async def test_a_look_up_that_hangs_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()

    def hang(*_: Any, **__: Any) -> list[Any]:
        answer.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await resolve("slow", 8000, allow_private=False)
    finally:
        answer.set()


@given(st.ip_addresses())
def test_what_python_calls_special_is_refused(address: targets.IPAddress) -> None:
    special = (
        address.is_private,
        address.is_reserved,
        address.is_multicast,
        address.is_loopback,
        address.is_link_local,
    )
    assume(not address.is_global or any(special))
    assert why_forbidden(address, allow_private=False)


@given(st.ip_addresses(v=4), st.sampled_from(EMBEDDING), st.booleans())
@example(ipaddress.IPv4Address("127.0.0.1"), "::ffff:0:0", True)
def test_an_ipv4_address_within_an_ipv6_address_is_refused(
    address: ipaddress.IPv4Address, prefix: str, allow_private: bool
) -> None:
    whole = ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) + int(address))
    assume(whole != ipaddress.IPv6Address("::1"))
    assert why_forbidden(whole, allow_private=allow_private)


@given(st.ip_addresses(v=4), st.integers(0, 2**80 - 1), st.booleans())
def test_6to4_and_teredo_addresses_are_refused(address: ipaddress.IPv4Address, rest: int, allow_private: bool) -> None:
    sixtofour = ipaddress.IPv6Address((0x2002 << 112) + (int(address) << 80) + rest)
    teredo = ipaddress.IPv6Address((0x20010000 << 96) + (int(address) << 64) + rest % 2**64)
    assert why_forbidden(sixtofour, allow_private=allow_private)
    assert why_forbidden(teredo, allow_private=allow_private)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text() | st.from_regex(targets.HOST_NAME) | st.ip_addresses().map(str), st.integers(), st.booleans())
async def test_any_text_is_refused_or_gives_an_allowed_address(
    names: Names, address: str, port: int, allow_private: bool
) -> None:
    with contextlib.suppress(ForbiddenTarget, socket.gaierror):
        found = ipaddress.ip_address(await resolve(address, port, allow_private=allow_private))
        assert not why_forbidden(found, allow_private=allow_private)
