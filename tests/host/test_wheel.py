"""The wheel in somebody else's site, which has nothing but what the wheel asks for, and the README's lines."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.unit.test_installing import LINES
from tests.unit.test_structure import APPS, MODULES

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SOURCES = ("allowance", "receipts", "routing", "pyproject.toml", "README.md", "LICENSE")


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED, EXTRAS = names(PROJECT["dependencies"]), PROJECT["optional-dependencies"]
BY_MODULE = {module: {canonicalize_name(n) for n in found} for module, found in packages_distributions().items()}
BLOCKED = sorted(module for module, found in BY_MODULE.items() if found & names(EXTRAS["site"]))

FROM_EXTRAS = {"bittensor": "bittensor", "httpx": "httpx", "pylon_client": "bittensor-pylon-client"}
"""What the modules of the extras are installed with, since the environment of these tests may lack them."""

OPTIONAL = names(EXTRAS["signatures"] + EXTRAS["live"] + EXTRAS["pylon"])

NAMED_IN_SETTINGS = {"channels-redis", "psycopg"}
PART_OF = {"pydantic-core": "pydantic", "asgiref": "django"}
"""Imported, and always there with another that is asked for."""


def run(*command: object, cwd: Path, **environment: str) -> str:
    """Run a program outside the repository and return what it printed; it must end well."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DJANGO", "COV"))}
    ended = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**clean, **environment}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel, built from a copy: building leaves files behind."""
    folder = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    run(sys.executable, "-c", build, folder / "dist", cwd=folder)
    [built] = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of an environment with the wheel in it.

    All other packages are those of this one, but for django-stubs: not every site has them.
    """
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    [packages] = folder.glob("lib/python*/site-packages")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith("django-stubs"):
            (packages / path.name).symlink_to(path)
    interpreter = folder / "bin" / "python"
    install = ("install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", wheel)
    run(sys.executable, "-m", "pip", "--python", interpreter, *install, cwd=folder)
    return interpreter


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return the folder of somebody else's site."""
    for name in ("urls.py", "visit.py", "caller.py", "mistaken.py"):
        shutil.copy(HERE / name, tmp_path)
    (tmp_path / "settings.py").write_text((HERE / "own_settings.py").read_text() + "\n" + LINES)
    return tmp_path


def test_the_wheel_has_every_file_of_the_three_apps(wheel: Path) -> None:
    ours = {
        path.relative_to(ROOT).as_posix()
        for app in APPS
        for path in (ROOT / app).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == ours
    assert {f"{app}/py.typed" for app in APPS} < ours


def test_the_wheel_says_what_it_is_and_needs(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        [metadata] = [archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA")]
    assert "# Miner router" in metadata
    for field in ("Keywords: ", "Classifier: Framework :: Django :: 6.0", "Project-URL: ", "License-Expression: MIT"):
        assert f"\n{field}" in metadata
    for extra, requirements in EXTRAS.items():
        for name in names(requirements):
            assert f"Requires-Dist: {name}" in metadata
            assert f"Requires-Dist: {name}\n" not in metadata
        assert f"Provides-Extra: {extra}\n" in metadata


def test_another_site_runs_with_what_the_wheel_asks_for_and_the_readme_s_lines(python: Path, site: Path) -> None:
    assert {"uvicorn", "websockets", "whitenoise", "environ", "pythonjsonlogger"} <= set(BLOCKED)
    printed = run(python, "-W", "error", "visit.py", *BLOCKED, cwd=site).splitlines()[-1]
    assert [Path(name).parent.name for name in printed.split()] == ["allowance", "receipts", "routing"]
    assert str(ROOT) not in printed


def test_mypy_strict_passes_over_a_caller_and_sees_a_mistake(python: Path, site: Path) -> None:
    if find_spec("mypy") is None:
        if os.environ.get("CI"):
            pytest.fail("mypy is missing: make lint installs it")
        pytest.skip("mypy is missing: make lint installs it")
    # It finds the mistake if the comment that silences it is in use, and nothing else.
    checked = (sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "--cache-dir", site / "cache")
    run(*checked, "caller.py", "mistaken.py", cwd=site)


def test_the_apps_import_what_the_wheel_asks_for_and_nothing_else() -> None:
    ours = {*APPS, "_typeshed"}  # the latter is there for type checkers only
    foreign = {name for path in MODULES for name in _imported(path)} - ours - sys.stdlib_module_names
    here = {name for module in foreign - FROM_EXTRAS.keys() for name in BY_MODULE[module]}
    asked_for = here | {FROM_EXTRAS[module] for module in foreign & FROM_EXTRAS.keys()}
    assert {PART_OF.get(name, name) for name in asked_for} - OPTIONAL == NEEDED - NAMED_IN_SETTINGS


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names
