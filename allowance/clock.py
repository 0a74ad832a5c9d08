"""The one clock of a site. Hosts' clocks differ, so a time that is compared with stored times must come from here."""

from __future__ import annotations

import datetime as dt

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from allowance.plumbing.database import alias


def now(using: str | None = None, *, by_server: dt.datetime | None = None) -> dt.datetime:
    """Return the current time: by the clock of the server on PostgreSQL, of this host on other databases.

    `using` is the alias of a database; None is the database of the apps. On PostgreSQL this takes a statement, unless
    the caller has just read the time `by_server` in another one; see ServerTime. Call it as `clock.now()`, so that
    tests can pin it.
    """
    database = connections[using or alias()]
    if database.vendor != "postgresql":
        return timezone.now()
    return by_server or _time_of_server(database)


def _time_of_server(database: BaseDatabaseWrapper) -> dt.datetime:
    with database.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")  # the ORM selects from tables only
        (found,) = cursor.fetchone()
    time: dt.datetime = found
    return time
