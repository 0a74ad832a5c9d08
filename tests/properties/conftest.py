from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from pytest_django.fixtures import Settings

from routing.upkeep.pruning import KEEP
from tests.properties.router import Router
from tests.properties.world import fleet


@pytest.fixture
def routers(transactional_db: None, settings: Settings) -> Iterator[list[Router]]:
    """Give the routers of a simulation."""
    settings.ALLOWANCE_LOCK_TIMEOUT = 60.0  # a router that is stopped keeps its locks, however slow the machine
    settings.ROUTING_DECISIONS_SAMPLE = 1
    for name in KEEP:
        setattr(settings, name, 0)
    logging.disable(logging.WARNING)  # there would be thousands
    try:
        with fleet() as routers:
            yield routers
    finally:
        logging.disable(logging.NOTSET)
