"""The answer to a scrape: the counts of all processes of this host, and the current state of the ledger."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from routing.watch.health import Ledger

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(ledger: Ledger | None) -> bytes:
    """Return all metrics in the text format of Prometheus. Without a `ledger` they say that the database is down.

    They cover all processes that share PROMETHEUS_MULTIPROC_DIR. If it is not set, they cover this process only.
    """
    registry = CollectorRegistry()
    if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        _forget_the_dead(Path(folder))
        MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
    else:
        registry.register(REGISTRY)
    registry.register(LedgerCollector(ledger))
    return generate_latest(registry)


class LedgerCollector:
    """The metrics of the ledger. They are the same in all processes, so they must not be summed."""

    def __init__(self, ledger: Ledger | None) -> None:
        self._ledger = ledger

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics, without those whose values are unknown."""
        known = self._ledger is not None
        yield GaugeMetricFamily("router_database_up", "Whether the database answered this scrape.", value=known)
        if self._ledger is None:
            return
        reservations = GaugeMetricFamily(
            "router_reservations",
            "Reservations stored as held: live ones, and expired ones that are not marked as expired yet.",
            labels=["state"],
        )
        reservations.add_metric(["live"], self._ledger.live)
        reservations.add_metric(["expired"], self._ledger.expired)
        yield reservations
        if self._ledger.age is not None:
            yield GaugeMetricFamily(
                "router_newest_block_age_seconds",
                "Seconds since the newest block was minted. Below 0 the block is ahead of the site's clock, and the "
                "router is not ready.",
                value=self._ledger.age,
            )


def _forget_the_dead(folder: Path) -> None:
    """Remove the live gauges of processes that have ended. Their counters stay."""
    for file in folder.glob("gauge_live*_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        if not _is_alive(pid):
            with suppress(FileNotFoundError):  # another scrape has removed it
                mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # the process of another user
        return True
    return True
