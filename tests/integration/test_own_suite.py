"""A site's own test suite ends in good order with the line of settings that the README names."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from django.db import connection

from tests.programs import ROOT, Program

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite's test database is a file"),
]

LINE = 'DATABASES["default"]["CONN_MAX_AGE"] = 0'

SETTINGS = """
from tests.settings import *

DATABASES["default"]["TEST"] = {{"NAME": "{name}"}}
"""

TEST = """
import asyncio

from django.test import TransactionTestCase

from routing import routing
from tests.factories import job_request
from tests.ledgers import fill_ledger


class PickTest(TransactionTestCase):
    def test_a_pick(self):
        fill_ledger("anna")
        route = asyncio.run(routing().pick_miner_for_job_request(job_request()))
        self.assertEqual(route.miner.hotkey_ss58, "anna")
"""

RUNNERS = {
    "manage.py test": [str(ROOT / "manage.py"), "test", "--noinput"],
    "pytest": ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--create-db"],
}


@pytest.fixture
def database() -> Iterator[str]:
    """The name of the site's test database, which is dropped even if the suite could not."""
    name = f"site_{os.getpid()}"
    yield name
    with closing(connection.copy()) as other, other.cursor() as cursor:
        cursor.execute(f"DROP DATABASE IF EXISTS {name}")


def run(runner: str, folder: Path, database: str, *lines: str) -> str:
    """Run the suite, and return what it printed."""
    Path(folder, "site_settings.py").write_text(SETTINGS.format(name=database) + "\n".join(lines))
    Path(folder, "test_site.py").write_text(TEST)
    environment = {"PYTHONPATH": f"{ROOT}:{folder}", "DJANGO_SETTINGS_MODULE": "site_settings"}
    code, out, err = Program(sys.executable, *RUNNERS[runner], cwd=folder, environment=environment).finish()
    return f"{out}{err}\nexit code {code}"


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_site_s_own_suite_drops_its_database(runner: str, tmp_path: Path, database: str) -> None:
    printed = run(runner, tmp_path, database, LINE)
    assert printed.endswith("exit code 0")
    assert "accessed by other users" not in printed
    assert LINE in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("runner", RUNNERS)
def test_control_without_the_line_the_pool_keeps_it(runner: str, tmp_path: Path, database: str) -> None:
    assert "accessed by other users" in run(runner, tmp_path, database)
