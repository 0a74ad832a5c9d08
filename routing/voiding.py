"""Voiding incidents in the name of a user of the site: each gets an entry in the admin's log."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any, NamedTuple

from django.apps import apps
from django.contrib.auth.models import AbstractBaseUser
from django.db.models import Count, QuerySet

from receipts.voiding import NAME_LENGTH
from routing.models import MinerIncident
from routing.reliability import void_incidents

Incidents = QuerySet[MinerIncident, Any]


class Group(NamedTuple):
    """How many incidents of a class and a type count, and how many miners have them."""

    executor_class: str
    type: str
    incidents: int
    miners: int


def groups(incidents: Incidents) -> list[Group]:
    """Return what of the incidents counts, by class and type."""
    counted = incidents.filter(voided_at=None).order_by("executor_class", "type").values_list("executor_class", "type")
    return [Group(*row) for row in counted.annotate(Count("pk"), Count("hotkey_ss58address", distinct=True))]


def void_for(incidents: Incidents, user: AbstractBaseUser, *, reason: str, now: dt.datetime) -> Iterator[int]:
    """Void incidents as `void_incidents` does, in the name of a user, and log each in the same transaction."""

    def note(voided: list[MinerIncident]) -> None:
        log(voided, user)

    yield from void_incidents(incidents, by=user.get_username()[:NAME_LENGTH], reason=reason, now=now, note=note)


def log(voided: list[MinerIncident], user: AbstractBaseUser) -> None:
    """Write into the admin's log, where the site has one, that a user voided each of the incidents, and why."""
    if voided and apps.is_installed("django.contrib.admin"):
        from django.contrib.admin.models import CHANGE, LogEntry  # noqa: PLC0415 (a model, only where it is installed)

        LogEntry.objects.log_actions(user.pk, voided, CHANGE, f"Voided: {voided[0].void_reason}")
