"""Replace a broken database connection at the beginning of a call."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from allowance.plumbing.database import database, is_in_transaction

Service = TypeVar("Service", bound=type)


def renew_connection() -> None:
    """Make the next statement of this thread reconnect if its connection is broken. In a transaction do nothing.

    Django does the same at the beginning of a web request. If CONN_HEALTH_CHECKS is on, Django tests the connection
    before the next statement. If it is off, this function tests a connection that had an error. A connection that
    works stays open, even if it is old, because the caller may be reading from it.
    """
    connection: Any = database()
    if connection.connection is None or is_in_transaction(connection):
        return
    connection.health_check_done = False
    if connection.errors_occurred and not connection.is_usable():
        connection.close()


def renews_connection(service: Service) -> Service:
    """Make every public synchronous method of a class begin with `renew_connection`."""
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
