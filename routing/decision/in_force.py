"""What is in force for a decision: the dynamic settings, and the version of the incidents of a class."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

from constance import settings as constance_settings
from constance.codecs import loads
from constance.models import Constance
from constance.utils import get_values_for_keys
from django.core.exceptions import ImproperlyConfigured
from django.db import connection

from allowance.interface import MAX_WEI
from routing.decision.model import Policy
from routing.dynamic import MAX_WINDOW_HOURS, MINIMUM_WEI, WINDOW_HOURS
from routing.models import IncidentVersion

_SETTINGS, _VERSIONS = (connection.ops.quote_name(model._meta.db_table) for model in (Constance, IncidentVersion))

SETTING, VERSION = 2, 3

# If constance keeps its settings in the database, this SQL reads them. Constance's own code takes longer than the
# query, and returns defaults if the table can't be read. The last column is the kind of the row. It also separates
# these rows from others in a union.
IN_FORCE = f"""
    SELECT key, value, {SETTING} FROM {_SETTINGS} WHERE key IN (%(minimum_wei)s, %(window_hours)s)
    UNION ALL
    SELECT '', CAST(version AS text), {VERSION} FROM {_VERSIONS} WHERE executor_class = %(executor_class)s
"""  # noqa: S608


class InForce(NamedTuple):
    """The dynamic settings, and the version of the incidents of a class (None: it never had an incident)."""

    policy: Policy
    incidents: int | None


def policy() -> Policy:
    """Return the dynamic settings in force. Unlike a read of constance's `config`, this stores no defaults."""
    with connection.cursor() as cursor:
        cursor.execute(IN_FORCE, parameters(""))
        return parse(cursor.fetchall()).policy


def parameters(executor_class: str) -> dict[str, str]:
    """Return the parameters of IN_FORCE."""
    prefix = constance_settings.DATABASE_PREFIX
    names = {"minimum_wei": prefix + MINIMUM_WEI, "window_hours": prefix + WINDOW_HOURS}
    return {**names, "executor_class": executor_class}


def parse(rows: Iterable[Sequence[Any]]) -> InForce:
    """Return the values in the rows of IN_FORCE. Rows of other kinds are ignored."""
    stored: dict[str, str] = {}
    incidents = None
    for key, value, kind in rows:
        if kind == SETTING:
            stored[key] = value
        elif kind == VERSION:
            incidents = int(value)
    if constance_settings.BACKEND != "constance.backends.database.DatabaseBackend":
        with _to_be_corrected():
            values = get_values_for_keys([MINIMUM_WEI, WINDOW_HOURS])
            return InForce(make_policy(values[MINIMUM_WEI], values[WINDOW_HOURS]), incidents)
    prefix = constance_settings.DATABASE_PREFIX
    return InForce(_parsed(stored.get(prefix + MINIMUM_WEI), stored.get(prefix + WINDOW_HOURS)), incidents)


@lru_cache(maxsize=64)
def _parsed(minimum_wei: str | None, window_hours: str | None) -> Policy:
    """Return the policy for values as constance stores them. None stands for the default."""
    wei, hours = (constance_settings.CONFIG[key][0] for key in (MINIMUM_WEI, WINDOW_HOURS))
    with _to_be_corrected():
        return make_policy(
            wei if minimum_wei is None else loads(minimum_wei), hours if window_hours is None else loads(window_hours)
        )


@contextmanager
def _to_be_corrected() -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"{error} Correct it in the admin, under Config.") from error


def make_policy(
    minimum_wei: int, window_hours: float, *, names: tuple[str, str] = (MINIMUM_WEI, WINDOW_HOURS)
) -> Policy:
    """Return a policy. Raises ValueError, which names the value, for a value outside the bounds of the admin."""
    wei_name, hours_name = names
    if not 0 <= minimum_wei <= MAX_WEI:
        raise ValueError(f"{wei_name} must be 0 to 2**256 - 1, not {minimum_wei!r:.80}.")
    if not 0 <= window_hours <= MAX_WINDOW_HOURS:
        raise ValueError(f"{hours_name} must be 0 to {MAX_WINDOW_HOURS:g}, not {window_hours!r:.80}.")
    return Policy(int(minimum_wei), dt.timedelta(hours=window_hours))


def what_if(there: Policy, minimum_wei: int | None, hours: float | None) -> Policy:
    """Return a policy with another least collateral (Wei) and another window (hours). None keeps the value of `there`.

    Raises ValueError for values outside the bounds of the admin.
    """
    return make_policy(
        there.minimum_wei if minimum_wei is None else minimum_wei,
        there.window / dt.timedelta(hours=1) if hours is None else hours,
        names=("The amount of Wei", "The number of hours"),
    )
