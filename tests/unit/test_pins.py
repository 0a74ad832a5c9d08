"""What is installed is what is pinned, with the hashes of what was looked at when it was pinned."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.markers import Marker

FOLDER = Path(__file__).parents[2] / "requirements"
PIN = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>\S+)(?: ; (?P<marker>.+?))? \\$")
HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$")


def entries(name: str) -> list[list[str]]:
    """Return the requirements of a file, each as its lines."""
    found: list[list[str]] = []
    for line in (FOLDER / name).read_text().splitlines():
        if line and not line.lstrip().startswith("#"):
            if line.startswith(" "):
                found[-1].append(line)
            else:
                found.append([line])
    return found


@pytest.mark.parametrize("name", ["base.txt", "test.txt", "lint.txt"])
def test_every_requirement_is_pinned_with_its_hashes(name: str) -> None:
    assert entries(name)
    for first, *hashes in entries(name):
        assert PIN.match(first), first
        assert hashes
        assert all(HASH.match(line) for line in hashes), first


@pytest.mark.parametrize("name", ["base.txt", "test.txt"])
def test_what_runs_here_is_what_is_pinned(name: str) -> None:
    different = {}
    for first, *_ in entries(name):
        pin = PIN.match(first)
        assert pin
        if pin["marker"] and not Marker(pin["marker"]).evaluate():
            continue
        try:
            installed = version(pin["name"])
        except PackageNotFoundError:
            installed = "nothing"
        if installed != pin["version"]:
            different[pin["name"]] = f"{installed} instead of {pin['version']}"
    assert different == {}
