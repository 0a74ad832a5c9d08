"""What the adapter `subtensor` knows without its library."""

from __future__ import annotations

import sys

import pytest

from allowance.follow.subtensor import LibraryMissing, Subtensor, name_of


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("ws://127.0.0.1:9944", "subtensor ws://127.0.0.1:9944"),
        ("wss://user:secret@node.example:443/secret?key=secret", "subtensor wss://node.example:443"),
        ("ws://[::1]:9944", "subtensor ws://[::1]:9944"),
    ],
)
def test_the_name_of_a_node_has_no_secret(url: str, name: str) -> None:
    assert name_of(url) == Subtensor([url], "", 12).name == name


@pytest.mark.parametrize(
    ("url", "pace"),
    [
        ("ws://127.0.0.1:9944", 4.0),
        ("ws://localhost:9944", 4.0),
        ("ws://subtensor:9944", 4.0),
        ("ws://10.0.0.7:9944", 4.0),
        ("ws://[fd00::7]:9944", 4.0),
        ("wss://entrypoint-finney.opentensor.ai:443", 1.0),
        ("ws://203.0.114.7:9944", 1.0),
    ],
)
def test_only_a_node_of_one_s_own_is_read_fast(url: str, pace: float) -> None:
    assert Subtensor([url], "", 12).pace == pace


async def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "allowance.follow.connection", None)
    with pytest.raises(LibraryMissing, match="extra `live`"):
        await Subtensor(["ws://127.0.0.1:9"], "", 12).latest()
