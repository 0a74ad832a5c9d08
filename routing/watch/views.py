"""The views for monitoring: liveness, readiness and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from django.db import connections
from django.db.transaction import non_atomic_requests
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import cache_control
from django.views.decorators.http import require_safe

from allowance.plumbing.threads import in_database_thread
from routing.access.admission import turn_away, turn_away_unasked
from routing.access.tokens import Scope
from routing.conf import conf
from routing.watch import health
from routing.watch.exposition import CONTENT_TYPE, exposition
from routing.watch.health import OK, Ledger, NoAnswer

PERMISSION = "routing.view_metrics"

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
    (ledger, database), channel_layer = await asyncio.gather(_ledger(), _channel_layer())
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
    ledger, _ = await _ledger()
    if ledger:
        refusal = await in_database_thread(turn_away)(request, token_scope=Scope.METRICS, permission=PERMISSION)
    else:
        refusal = turn_away_unasked(request, token_scope=Scope.METRICS)
    if refusal:
        return refusal
    return HttpResponse(await asyncio.to_thread(exposition, ledger), content_type=CONTENT_TYPE)


async def _ledger() -> tuple[Ledger | None, str]:
    try:
        return await health.database.ledger(), OK
    except NoAnswer as why:
        return None, str(why)


async def _channel_layer() -> str:
    try:
        await health.reach_channel_layer()
    except NoAnswer as why:
        return str(why)
    return OK
