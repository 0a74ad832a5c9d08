"""What is in force for a decision: the dynamic settings, and the version of the incidents of a class."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

from constance import settings as constance_settings
from constance.codecs import loads
from constance.models import Constance
from constance.utils import get_values_for_keys
from django.core.exceptions import ImproperlyConfigured
from django.db.models import CharField, QuerySet

from allowance.interface import MAX_WEI
from allowance.plumbing.compiled import Param
from allowance.plumbing.union import Row, arm
from routing.decision.model import Policy
from routing.dynamic import (
    DATABASE_BACKEND,
    MAX_UNUSED_BLOCKS,
    MAX_WINDOW_HOURS,
    MINIMUM_WEI,
    UNUSED_BLOCKS,
    WINDOW_HOURS,
)
from routing.models import IncidentVersion

SETTING, VERSION = 20, 21

OF_POLICY = (MINIMUM_WEI, WINDOW_HOURS, UNUSED_BLOCKS)
"""The dynamic settings that make a policy, in the order of the parameters of `make_policy`."""


class InForce(NamedTuple):
    """The dynamic settings, and the version of the incidents of a class (None: it never had an incident)."""

    policy: Policy
    incidents: int | None


def stored(executor_class: Any) -> list[QuerySet[Any, Any]]:
    """Return the stored dynamic settings and the version of the incidents of a class as arms of a union.

    Constance's own code takes longer than the statement, and returns defaults if the table can't be read. If constance
    keeps the settings elsewhere, its table is not read: it may be in another database.
    """
    version = arm(VERSION, IncidentVersion.objects.filter(pk=executor_class), number="version")
    if not _are_stored():
        return [version]
    keys = [Param(name, CharField()) for name in OF_POLICY]
    return [arm(SETTING, Constance.objects.filter(key__in=keys), key="key", text="value"), version]


def names() -> dict[str, str]:
    """Return the values of the parameters of `stored`: the keys under which constance stores the settings."""
    return {name: constance_settings.DATABASE_PREFIX + name for name in OF_POLICY}


def policy() -> Policy:
    """Return the dynamic settings in force. Unlike a read of constance's `config`, this stores no defaults."""
    if not _are_stored():
        return _policy({})
    return _policy(dict(Constance.objects.filter(key__in=names().values()).values_list("key", "value")))


def parse(rows: Iterable[Row]) -> InForce:
    """Return the values in the rows of `stored`. Rows of other kinds are ignored."""
    values: dict[str, str] = {}
    incidents = None
    for row in rows:
        if row.kind == SETTING:
            values[row.key or ""] = row.text or ""
        elif row.kind == VERSION:
            incidents = row.number
    return InForce(_policy(values), incidents)


def _are_stored() -> bool:
    """Return whether constance keeps the dynamic settings in its table."""
    return bool(constance_settings.BACKEND == DATABASE_BACKEND)


def _policy(stored: Mapping[str, str]) -> Policy:
    if not _are_stored():
        with _to_be_corrected():
            values = get_values_for_keys(OF_POLICY)
            return make_policy(*(values[name] for name in OF_POLICY))
    return _parsed(*map(stored.get, names().values()))


@lru_cache(maxsize=64)
def _parsed(*stored: str | None) -> Policy:
    """Return the policy for values as constance stores them, in the order of OF_POLICY. None stands for the default."""
    with _to_be_corrected():
        return make_policy(
            *(
                constance_settings.CONFIG[name][0] if value is None else loads(value)
                for name, value in zip(OF_POLICY, stored, strict=True)
            )
        )


@contextmanager
def _to_be_corrected() -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"{error} Correct it in the admin, under Config.") from error


def make_policy(
    minimum_wei: int, window_hours: float, unused_blocks: int = 0, *, names: tuple[str, str, str] = OF_POLICY
) -> Policy:
    """Return a policy. Raises ValueError, which names the value, for a value outside the bounds of the admin."""
    wei_name, hours_name, blocks_name = names
    if not 0 <= minimum_wei <= MAX_WEI:
        raise ValueError(f"{wei_name} must be 0 to 2**256 - 1, not {minimum_wei!r:.80}.")
    if not 0 <= window_hours <= MAX_WINDOW_HOURS:
        raise ValueError(f"{hours_name} must be 0 to {MAX_WINDOW_HOURS:g}, not {window_hours!r:.80}.")
    if not 0 <= unused_blocks <= MAX_UNUSED_BLOCKS:
        raise ValueError(f"{blocks_name} must be 0 to {MAX_UNUSED_BLOCKS}, not {unused_blocks!r:.80}.")
    return Policy(int(minimum_wei), dt.timedelta(hours=window_hours), int(unused_blocks))


def what_if(there: Policy, minimum_wei: int | None, hours: float | None, unused_blocks: int | None = None) -> Policy:
    """Return a policy with another least collateral (Wei), another window (hours) and other unused blocks.

    None keeps the value of `there`. Raises ValueError for values outside the bounds of the admin.
    """
    return make_policy(
        there.minimum_wei if minimum_wei is None else minimum_wei,
        there.window / dt.timedelta(hours=1) if hours is None else hours,
        there.unused_blocks if unused_blocks is None else unused_blocks,
        names=("The amount of Wei", "The number of hours", "The number of unused blocks"),
    )
