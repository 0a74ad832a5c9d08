from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import pytest

from routing.access import tokens
from routing.access.tokens import Scope
from tests.ledgers import fill_ledger
from tests.servers.redis import Redis, own_redis

HOUR = dt.timedelta(hours=1)


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    with own_redis() as server:
        yield server


@pytest.fixture
def token(transactional_db: None) -> str:
    """Return a token for all sockets."""
    return tokens.issue("client", list(Scope), HOUR)[1]


@pytest.fixture
def ledger(ledger_clean_at_the_end: None) -> None:
    """Fill the ledger for some 600 jobs at once, of up to 120 s."""
    fill_ledger(*(f"miner_{i}" for i in range(30)), blocks=41, executors=20)
