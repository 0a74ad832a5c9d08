"""The one clock of a site. Hosts' clocks differ, so a time that is compared with stored times must come from here."""

from __future__ import annotations

import datetime as dt

from django.db import connection
from django.utils import timezone


def now(*, told: dt.datetime | None = None) -> dt.datetime:
    """Return the current time: by the clock of the server on PostgreSQL, of this host on other databases.

    On PostgreSQL this takes a statement, unless a statement that has just run `told` the time; see ServerTime. Call it
    as `clock.now()`, so that tests can pin it.
    """
    if connection.vendor != "postgresql":
        return timezone.now()
    return told or _time_of_server()


def _time_of_server() -> dt.datetime:
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")  # the ORM selects from tables only
        (found,) = cursor.fetchone()
    time: dt.datetime = found
    return time
