from __future__ import annotations

import datetime as dt

import pytest

from routing import tokens
from routing.tokens import Scope
from tests.factories import fill_ledger

HOUR = dt.timedelta(hours=1)


@pytest.fixture
def token(transactional_db: None) -> str:
    """Return a token for all sockets."""
    return tokens.issue("client", list(Scope), HOUR)[1]


@pytest.fixture
def ledger(ledger_clean_at_the_end: None) -> None:
    """Fill the ledger for some 600 jobs at once, of up to 120 s."""
    fill_ledger(*(f"miner_{i}" for i in range(30)), blocks=41, executors=20)
