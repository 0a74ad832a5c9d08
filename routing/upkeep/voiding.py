"""Voiding of incidents and receipts in the name of a user of the site. Each gets an entry in the admin's log.

If the log is in another database than the apps, a void and its entry can't be one transaction. The functions here then
commit the entries of a batch first. If they can't be stored, this batch is not voided.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from django.apps import apps
from django.contrib.auth.models import AbstractBaseUser
from django.db.models import Count, QuerySet

from allowance.interface import bound_waits, ledger_transaction, lock_timeout
from allowance.plumbing.connections import renew_connection
from receipts.interface import NAME_LENGTH, Receipt, Voidable
from routing.incidents import void_locked, void_values
from routing.models import MinerIncident

Incidents = QuerySet[MinerIncident, Any]

VOIDED_AT_ONCE = 500
"""The most rows that one transaction voids. Reports of incidents of the same executor class wait for it."""


class Group(NamedTuple):
    """The number of incidents of a class and a type that are not voided, and the number of their miners."""

    executor_class: str
    type: str
    incidents: int
    miners: int


def groups(incidents: Incidents) -> list[Group]:
    """Return the groups of the incidents that are not voided, by class and type."""
    counted = incidents.filter(voided_at=None).order_by("executor_class", "type").values_list("executor_class", "type")
    return [Group(*row) for row in counted.annotate(Count("pk"), Count("hotkey_ss58address", distinct=True))]


def void_for(incidents: Incidents, user: AbstractBaseUser, *, reason: str, now: dt.datetime) -> Iterator[int]:
    """Void, in the name of a user, the incidents that exist now, class by class; see `_void_in_batches`."""
    void = void_values(user.get_username()[:NAME_LENGTH], reason, now)
    by_class = incidents.filter(voided_at=None).order_by("executor_class", "pk").values_list("executor_class", "pk")
    for executor_class, found in groupby(list(by_class), itemgetter(0)):
        yield from _void_in_batches([pk for _, pk in found], partial(void_locked, executor_class), user, void)


class ReceiptGroup(NamedTuple):
    """The number of receipts of a kind that are not voided, and the number of their miners."""

    kind: str
    receipts: int
    miners: int


def receipt_groups(matching: Mapping[str, QuerySet[Receipt]]) -> list[ReceiptGroup]:
    """Return the groups of the receipts that are not voided, by kind. Empty groups are left out."""
    found = []
    for kind, receipts in matching.items():
        counted = receipts.filter(voided_at=None).aggregate(n=Count("pk"), miners=Count("miner_hotkey", distinct=True))
        found += [ReceiptGroup(kind, counted["n"], counted["miners"])] if counted["n"] else []
    return found


def void_receipts_for(
    kinds: Iterable[QuerySet[Receipt]], user: AbstractBaseUser, *, reason: str, now: dt.datetime
) -> Iterator[int]:
    """Void, in the name of a user, the receipts that exist now, kind by kind; see `_void_in_batches`."""
    void = void_values(user.get_username()[:NAME_LENGTH], reason, now)
    counting = [kind.filter(voided_at=None).order_by("pk") for kind in kinds]
    for model, pks in [(kind.model, list(kind.values_list("pk", flat=True))) for kind in counting]:
        yield from _void_in_batches(pks, partial(_void_receipts, model), user, void)


def _void_receipts(model: type[Receipt], pks: Sequence[int], void: Mapping[str, Any]) -> list[Receipt]:
    """Void receipts under their locks, and return those that were not voided before."""
    bound_waits(lock_timeout())
    rows = model._default_manager.order_by("pk")
    voided = list(rows.filter(pk__in=pks, voided_at=None).select_for_update())
    rows.filter(pk__in=[row.pk for row in voided]).update(**void)
    return voided


def _void_in_batches(
    pks: Sequence[int],
    void_some: Callable[[Sequence[int], Mapping[str, Any]], Sequence[Voidable]],
    user: AbstractBaseUser,
    void: Mapping[str, Any],
) -> Iterator[int]:
    """Void rows, at most VOIDED_AT_ONCE in a transaction, and log each row before the transaction ends.

    After each transaction yield the number of rows that it voided. Rows that are voided already are left unchanged.
    Raises LockTimeout if rows stay locked. Earlier transactions stay committed.
    """
    for first in range(0, len(pks), VOIDED_AT_ONCE):
        renew_connection()
        with ledger_transaction():
            voided = void_some(pks[first : first + VOIDED_AT_ONCE], void)
            log(voided, user, void["void_reason"])
        yield len(voided)


def log(voided: Sequence[Voidable], user: AbstractBaseUser, reason: str) -> None:
    """Record in the admin's log, if the site has an admin, that a user voided each of the rows, and why."""
    if voided and apps.is_installed("django.contrib.admin"):
        from django.contrib.admin.models import CHANGE, LogEntry  # noqa: PLC0415 (a model, only where it is installed)

        LogEntry.objects.log_actions(user.pk, voided, CHANGE, f"Voided: {reason}")
