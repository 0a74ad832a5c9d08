"""A site keeps the apps in a database of their own, with the router of databases that the README shows."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from django.db import connection

from tests.programs import ROOT, Program

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

[ROUTERS] = re.findall(r"^```python\n(# routers\.py.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)

SETTINGS = """
from tests.settings import *

DATABASES = {{
    "default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": "{folder}/default.sqlite3"}},
    "ledger": {{**DATABASES["default"], "NAME": "{ledger}"}},
}}
DATABASE_ROUTERS = ["routers.LedgerRouter"]
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[str]:
    """The name of an empty database of the kind that is tested. It is dropped at the end."""
    if connection.vendor == "sqlite":
        yield str(tmp_path / "ledger.sqlite3")
        return
    name = f"ledger_{os.getpid()}"
    with closing(connection.copy()) as other, other.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
        try:
            yield name
        finally:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_site_keeps_the_apps_in_a_database_of_their_own(ledger: str, tmp_path: Path) -> None:
    (tmp_path / "routers.py").write_text(ROUTERS)
    (tmp_path / "site_settings.py").write_text(SETTINGS.format(folder=tmp_path, ledger=ledger))
    environment = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "DJANGO_SETTINGS_MODULE": "site_settings"}
    program = Program(sys.executable, "-m", "tests.integration.ledger_apart", tmp_path, environment=environment)
    code, out, err = program.finish()
    assert (code, out.splitlines()[-1:]) == (0, ["All is in its place."]), out + err
