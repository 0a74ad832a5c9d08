"""PostgreSQL restarted under load: routers go on by themselves, and keep every promise."""

from __future__ import annotations

import pytest
from django.db import connection

from tests.faults.aftermath import assert_unharmed
from tests.faults.cluster import private_cluster
from tests.faults.crowd import crowd
from tests.faults.operations import MINERS
from tests.ledgers import fill_ledger

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="the same server of its own as in PostgreSQL's run"),
]


def test_routers_outlive_restarts_and_a_crash_of_the_server() -> None:
    """Restart it in good order, then as in a crash, from which it recovers; all along, routers pick, spend and undo."""
    with private_cluster() as cluster:
        fill_ledger(*MINERS, *"defg", blocks=61, executors=1000)
        with crowd() as routers:
            routers.wait_for_picks()
            for mode in ("fast", "immediate"):
                connection.close()
                cluster.restart(mode)
                routers.wait_for_picks()
            routers.stop()
            assert routers.errors
            assert len(routers.routes) > 90
            assert_unharmed(routers.pick, told=routers.told, untold=routers.unrouted)
