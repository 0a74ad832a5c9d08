from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_django import DjangoDbBlocker

from tests.concurrency.processes import Crew


@pytest.fixture(scope="package")
def package_crew(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[Crew]:
    """Start no process yet, and leave none connected to the database when it is dropped."""
    crew = Crew()
    yield crew
    with django_db_blocker.unblock():
        crew.dismiss()


@pytest.fixture
def crew(package_crew: Crew, transactional_db: None) -> Iterator[Crew]:
    """Give processes to a test; whoever is still busy at its end must not keep the tables locked."""
    yield package_crew
    package_crew.dismiss(busy_only=True)
