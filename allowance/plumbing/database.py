"""The database of the three apps: the one to which the site's DATABASE_ROUTERS send their models.

Call `alias` or `database` where a transaction or a statement begins. Do not keep the result: the connection belongs to
the thread. The check routing.E023 requires that all models of the apps are read from and written to this database.
"""

from __future__ import annotations

from functools import cache

from django.apps import apps
from django.db import connections, router
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Model


def alias() -> str:
    """Return the alias of the apps' database in the setting DATABASES."""
    found: str = router.db_for_write(_account())
    return found


def database() -> BaseDatabaseWrapper:
    """Return this thread's connection to the apps' database."""
    return connections[alias()]


def is_in_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Return whether a transaction of the caller is open. Without autocommit one always is, once connected."""
    return connection.in_atomic_block or (connection.connection is not None and not connection.autocommit)


@cache
def _account() -> type[Model]:
    """Return the model of an account. It stands for all models of the apps, and is not imported: plumbing is below."""
    return apps.get_model("allowance", "Account")
