from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from allowance.audit import check_ledger
from allowance.threads import close_database_pool

settings.register_profile("ci", derandomize=True, print_blob=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture(autouse=True, scope="session")
def pool_closed_at_the_end(django_db_setup: None) -> Iterator[None]:
    """PostgreSQL drops a test database only when nobody is connected to it."""
    yield
    close_database_pool()


@pytest.fixture
def ledger_clean_at_the_end(transactional_db: None) -> Iterator[None]:
    """For tests that touch the ledger: whatever they did, it must agree with its history."""
    yield
    assert list(check_ledger()) == []
