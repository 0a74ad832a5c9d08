"""What is installed is what is pinned, with the hashes of what was looked at when it was pinned."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "requirements"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
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


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.txt")))
def test_every_requirement_is_pinned_with_its_hashes(name: str) -> None:
    assert entries(name)
    for first, *hashes in entries(name):
        assert PIN.match(first), first
        assert hashes
        assert all(HASH.match(line) for line in hashes), first


def other_releases() -> dict[str, str]:
    """Return the names of files that pin another release of Django, by that release."""
    pins = {path.name: PIN.match(entries(path.name)[0][0]) for path in FOLDER.glob("django-*.txt")}
    return {pin["version"]: name for name, pin in pins.items() if pin}


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
        if pin["name"] == "django" and installed in other_releases():
            continue  # make test DJANGO=6.0
        if installed != pin["version"]:
            different[pin["name"]] = f"{installed} instead of {pin['version']}"
    assert different == {}


def test_no_address_of_an_index_is_pinned() -> None:
    for path in FOLDER.iterdir():
        assert "://" not in path.read_text(), path.name
        assert "index-url" not in path.read_text(), path.name


def test_another_release_of_django_is_one_that_the_apps_allow() -> None:
    django = next(text for text in PROJECT["dependencies"] if text.startswith("Django"))
    assert other_releases()
    for release, name in other_releases().items():
        assert Requirement(django).specifier.contains(release)
        assert name == f"django-{release.rpartition('.')[0]}.txt"
