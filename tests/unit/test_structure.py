"""What holds for the code as a whole."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from allowance.service import Allowance
from receipts.service import Receipts
from routing.service import Routing

ROOT = Path(__file__).parents[2]
APPS = ("allowance", "receipts", "routing")
TWINLESS = {"pick": "pick_miner_for_job_request", "report_incident": "report_miner_incident"}
MODULES = [path for app in APPS for path in (ROOT / app).rglob("*.py")]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


BESIDE_THE_ROUTERS = re.compile(
    r"DEFAULT_DB_ALIAS|from django\.db import .*\bconnection\b|\batomic(\(\)|\(durable|\(savepoint|$)"
)
"""Ways to reach a database without asking DATABASE_ROUTERS which one it is."""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_ask_which_database_is_theirs(path: Path) -> None:
    assert [line for line in path.read_text().splitlines() if BESIDE_THE_ROUTERS.search(line)] == []


def public(service: type) -> dict[str, object]:
    return {name: member for name, member in inspect.getmembers(service, callable) if not name.startswith("_")}


@pytest.mark.parametrize("service", [Allowance, Receipts])
def test_every_method_has_a_twin_of_the_same_signature(service: type) -> None:
    methods = public(service)
    plain = {name for name in methods if not inspect.iscoroutinefunction(methods[name])}
    assert {f"a{name}" for name in plain} == methods.keys() - plain
    for name in plain:
        assert inspect.signature(getattr(service, f"a{name}")) == inspect.signature(getattr(service, name))


@pytest.mark.parametrize(("plain", "twin"), TWINLESS.items())
def test_every_method_of_the_router_has_a_twin_of_the_same_signature(plain: str, twin: str) -> None:
    assert public(Routing).keys() == {*TWINLESS, *TWINLESS.values()}
    assert inspect.iscoroutinefunction(getattr(Routing, twin))
    assert inspect.signature(getattr(Routing, plain)) == inspect.signature(getattr(Routing, twin))
