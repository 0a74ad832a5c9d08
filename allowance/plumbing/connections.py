"""Database connections that break: where a call may begin with a new one, it does."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from django.db import DEFAULT_DB_ALIAS, connections

Service = TypeVar("Service", bound=type)


def renew_connection() -> None:
    """Let the next statement of this thread connect anew if its connection is broken. In a transaction do nothing.

    Django does so at the beginning of a web request. An idle connection is tested before the next statement if
    CONN_HEALTH_CHECKS is on; without it, one that has failed is tested here. Whatever its age is, a connection that
    works stays: the caller may be reading from it. Without autocommit the caller is always in a transaction.
    """
    connection: Any = connections[DEFAULT_DB_ALIAS]
    if connection.connection is None or connection.in_atomic_block or not connection.autocommit:
        return
    connection.health_check_done = False
    if connection.errors_occurred and not connection.is_usable():
        connection.close()


def renews_connection(service: Service) -> Service:
    """Let every public sync method of a class begin with `renew_connection`."""
    for name, method in vars(service).copy().items():
        if inspect.isfunction(method) and not inspect.iscoroutinefunction(method) and not name.startswith("_"):
            setattr(service, name, _renewing(method))
    return service


def _renewing(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        renew_connection()
        return method(*args, **kwargs)

    return call
