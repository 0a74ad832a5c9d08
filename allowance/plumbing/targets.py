"""The addresses that others name, such as miners, and that this host connects to.

An attacker may name an address inside this host's network, to reach services that trust it. Only public addresses are
allowed. A host name is resolved once, and the caller connects to the address that `resolve` returns: a second look-up
could give another address.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import NamedTuple

from allowance.plumbing.errors import RefusedError
from allowance.plumbing.threads import in_daemon_thread

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class ForbiddenTarget(RefusedError):
    """This host may not connect to an address that others name. `reason` is a phrase that says why."""

    def __init__(self, address: str, port: int, reason: str) -> None:
        self.address, self.port, self.reason = address, port, reason
        super().__init__(f"No connection to {address!r:.80} port {port!r:.20}: {reason}.")


class _Range(NamedTuple):
    """A range of addresses that are not public. `is_private`: this host may connect if private ones are allowed."""

    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    reason: str
    is_private: bool


def _range(network: str, reason: str, *, is_private: bool = False) -> _Range:
    return _Range(ipaddress.ip_network(network), reason, is_private)


RANGES = (
    # The services that give credentials to cloud machines: never needed, and worse than other private addresses.
    _range("169.254.169.254/32", "it is a cloud's metadata service"),
    _range("169.254.170.0/24", "it is a cloud's metadata service"),
    _range("100.100.100.200/32", "it is a cloud's metadata service"),
    _range("168.63.129.16/32", "it is a cloud's metadata service"),
    _range("fd00:ec2::/32", "it is a cloud's metadata service"),
    _range("fd20:ce::254/128", "it is a cloud's metadata service"),
    _range("0.0.0.0/8", "it is unspecified"),
    _range("10.0.0.0/8", "it is private", is_private=True),
    _range("100.64.0.0/10", "it is private to a provider", is_private=True),
    _range("127.0.0.0/8", "it is loopback", is_private=True),
    _range("169.254.0.0/16", "it is link-local", is_private=True),
    _range("172.16.0.0/12", "it is private", is_private=True),
    _range("192.168.0.0/16", "it is private", is_private=True),
    _range("192.0.0.0/24", "it is reserved"),
    _range("192.0.2.0/24", "it is reserved for documents"),
    _range("192.88.99.0/24", "it is reserved"),
    _range("198.18.0.0/15", "it is reserved for benchmarks"),
    _range("198.51.100.0/24", "it is reserved for documents"),
    _range("203.0.113.0/24", "it is reserved for documents"),
    _range("224.0.0.0/4", "it is multicast"),
    _range("240.0.0.0/4", "it is reserved"),
    _range("::/128", "it is unspecified"),
    _range("::1/128", "it is loopback", is_private=True),
    _range("fc00::/7", "it is private", is_private=True),
    _range("fe80::/10", "it is link-local", is_private=True),
    _range("ff00::/8", "it is multicast"),
    # These contain IPv4 addresses, which may be private. An IPv4 address has its own form.
    _range("::/96", "it contains an IPv4 address"),
    _range("::ffff:0:0/96", "it contains an IPv4 address"),
    _range("::ffff:0:0:0/96", "it contains an IPv4 address"),
    _range("64:ff9b::/96", "it contains an IPv4 address"),
    _range("64:ff9b:1::/48", "it contains an IPv4 address"),
    _range("2001::/32", "it contains an IPv4 address"),
    _range("2002::/16", "it contains an IPv4 address"),
    _range("2001::/23", "it is reserved"),
    _range("2001:db8::/32", "it is reserved for documents"),
    _range("3fff::/20", "it is reserved for documents"),
)
"""The ranges that are not public. The first that contains an address decides."""

PUBLIC_IPV6 = ipaddress.ip_network("2000::/3")
"""The only part of the IPv6 addresses from which public ones are assigned."""

HOST_NAME = re.compile(r"(?=.{1,253}\Z)(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})\.)*[A-Za-z0-9_][A-Za-z0-9_-]{0,62}\.?\Z")
"""A host name in ASCII. The system's resolver accepts other texts, too."""


async def resolve(address: str, port: int, *, allow_private: bool) -> str:
    """Return the IP address to connect to, for an IP address or a host name.

    Raises ForbiddenTarget if it is not public, or if any of the addresses of a host name is not. `allow_private` allows
    loopback, private and link-local addresses too. Raises OSError if a host name can't be resolved. The caller sets a
    deadline.
    """
    if not 1 <= port <= 65_535:
        raise ForbiddenTarget(address, port, "there is no such port")
    try:
        found = [ipaddress.ip_address(address)]
    except ValueError:
        if not HOST_NAME.match(address):
            raise ForbiddenTarget(address, port, "it is neither an IP address nor a host name") from None
        found = [ipaddress.ip_address(one) for one in await _look_up(address, port)]
    for one in found:
        if reason := why_forbidden(one, allow_private=allow_private):
            shown = address if str(one) == address else f"{address} ({one})"
            raise ForbiddenTarget(shown, port, reason)
    return str(found[0])


def why_forbidden(address: IPAddress, *, allow_private: bool) -> str:
    """Return a phrase that says why this host may not connect to an IP address, or an empty text if it may."""
    if getattr(address, "scope_id", None):
        return "it names a network interface"
    for network, reason, is_private in RANGES:
        if address in network:
            return "" if is_private and allow_private else reason
    if address.version == 6 and address not in PUBLIC_IPV6:
        return "it is reserved"
    return ""


async def _look_up(name: str, port: int) -> list[str]:
    """Return the IP addresses of a host name, at least one. Raises OSError if there are none. It may take a minute."""
    found = await in_daemon_thread(lambda: socket.getaddrinfo(name, port, type=socket.SOCK_STREAM))
    return [str(address[4][0]) for address in found]
