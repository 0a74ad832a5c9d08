"""What holds for the code as a whole."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from allowance.service import Allowance
from receipts.service import Receipts
from routing.service import Routing

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {"allowance": {"allowance"}, "receipts": {"receipts"}, "routing": {"routing", "allowance", "receipts"}}
OURS = {"allowance", "receipts", "routing", "project", "tests"}
TWINLESS = {"pick": "pick_miner_for_job_request", "report_incident": "report_miner_incident"}
MODULES = [path for app in MAY_IMPORT for path in (ROOT / app).rglob("*.py")]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    app = path.relative_to(ROOT).parts[0]
    assert imported(path) & OURS <= MAY_IMPORT[app]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


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
