"""The views for monitoring: liveness, readiness, and the metrics of the site's processes and of the ledger."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from django.db import connections
from django.db.transaction import non_atomic_requests
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import cache_control
from django.views.decorators.http import require_safe
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from allowance.plumbing.threads import in_database_thread
from routing.access.admission import turn_away, turn_away_unasked
from routing.access.tokens import Scope
from routing.conf import conf
from routing.watch import health
from routing.watch.follower_metrics import follower_metrics
from routing.watch.health import OK, Ledger

PERMISSION = "routing.view_metrics"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

View = TypeVar("View", bound=Callable[..., Any])


def _non_atomic_requests(view: View) -> View:
    """Exempt a view from ATOMIC_REQUESTS of all databases: Django does not support it for async views."""
    for alias in connections:
        view = non_atomic_requests(alias)(view)
    return view


@_non_atomic_requests
@cache_control(no_store=True)
@require_safe
async def healthz(_request: HttpRequest) -> HttpResponse:
    """Answer with 200: this process is alive."""
    return JsonResponse({"status": OK})


@_non_atomic_requests
@cache_control(no_store=True)
@require_safe
async def readyz(_request: HttpRequest) -> HttpResponse:
    """Answer whether this process can route jobs, with 200 or 503, and name what is missing.

    The newest block must be at most ROUTING_READY_MAX_BLOCK_AGE seconds old, and not ahead of the clock.
    """
    (ledger, database), channel_layer = await asyncio.gather(health.database.ledger(), health.channel_layer())
    age = ledger and ledger.age
    up_to_date = age is not None and 0 <= age <= conf.ROUTING_READY_MAX_BLOCK_AGE
    ready = database == channel_layer == OK and up_to_date
    answer = {
        "ready": ready,
        "database": database,
        "newest_block": ledger and ledger.block,
        "newest_block_age_seconds": age,
        "channel_layer": channel_layer,
    }
    return JsonResponse(answer, status=200 if ready else 503)


@_non_atomic_requests
@cache_control(no_store=True)
@require_safe
async def metrics(request: HttpRequest) -> HttpResponse:
    """Show the metrics to the holder of a token for them, or to a user with the permission `routing.view_metrics`.

    Metrics are needed most when the database is down. A token is then accepted by its signature and expiry alone.
    """
    ledger, _ = await health.database.ledger()
    if ledger:
        refusal = await in_database_thread(turn_away)(request, token_scope=Scope.METRICS, permission=PERMISSION)
    else:
        refusal = turn_away_unasked(request, token_scope=Scope.METRICS)
    if refusal:
        return refusal
    return HttpResponse(await asyncio.to_thread(exposition, ledger), content_type=CONTENT_TYPE)


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
        yield from follower_metrics(self._ledger.followed)


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
