from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from pytest_django.fixtures import Settings

from routing.upkeep.pruning import KEEP
from tests.integration import hour as an_hour
from tests.ledgers import fill_ledger
from tests.sockets import permitted


@pytest.fixture(autouse=True)
def ledger(request: pytest.FixtureRequest) -> None:
    """Fill the ledger with the miners that the nearest mark `miners` names, if it names any."""
    mark = request.node.get_closest_marker("miners")
    if mark and mark.args:
        request.getfixturevalue("db")
        fill_ledger(*mark.args, **mark.kwargs)


@pytest.fixture
def facilitator(transactional_db: None) -> User:
    """Somebody who may route jobs."""
    return permitted("facilitator")


@pytest.fixture
def nothing_kept(settings: Settings) -> None:
    """Keep nothing for its own sake: what stays is what somebody may need."""
    for name in KEEP:
        setattr(settings, name, 0)


@pytest.fixture
def no_types_remembered() -> Iterator[None]:
    """Forget the content type that constance makes at its first save, and that a test takes back."""
    yield
    ContentType.objects.clear_cache()


@pytest.fixture
def hour(db: None) -> None:
    """An hour of routing, with whatever must not count just outside."""
    an_hour.fill()
