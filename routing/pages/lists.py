"""The base classes of the admin's lists about miners, and of their filters."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.db.models import QuerySet
from django.http import HttpRequest

from allowance.interface import ExecutorClass, clock
from allowance.plumbing.lists import JOB_OR_HOTKEY, ModelAdmin, ReadOnlyAdmin
from routing.pages import SEE_MINER
from routing.types import Outcome


class OfMinersAdmin(ReadOnlyAdmin):
    """An admin whose column `hotkey` links to the miner's page. Users who may not see that page get the plain field."""

    mere_field = "miner"

    def get_list_display(self, request: HttpRequest) -> tuple[str, ...]:
        return self._seen(request, self.list_display)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return self._seen(request, self.fields or ())

    def _seen(self, request: HttpRequest, columns: Sequence[Any]) -> tuple[str, ...]:
        name = "hotkey" if request.user.has_perms(SEE_MINER) else self.mere_field
        return tuple(name if column == "hotkey" else column for column in columns)


class SearchedByIndexAdmin(OfMinersAdmin):
    """An admin that is searched by job, or by the beginning of a hotkey.

    No cheap index serves a search by beginning, so `hotkeys` finds the whole hotkeys to search for.
    """

    uuid = "job_uuid"
    search_help_text = JOB_OR_HOTKEY

    def hotkeys(self, term: str) -> list[str]:
        """Return the hotkeys that start with `term`."""
        raise NotImplementedError

    def search(self, request: HttpRequest, queryset: QuerySet[Any], term: str) -> QuerySet[Any]:
        return queryset.filter(**{f"{self.mere_field}__in": self.hotkeys(term)}) if term else queryset


class Filter(admin.SimpleListFilter):
    """A filter by a column, shown as choices in a form above the list. The sidebar does not show it."""

    template = "routing/filter.html"

    everything = ""
    """The label of the choice that does not filter."""

    values: Sequence[tuple[str, str]] = ()
    """The other choices: each value and its label."""

    column = ""
    """The column that has the values."""

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin) -> Sequence[tuple[str, str]]:
        return self.values

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        if not value:
            return queryset
        if value not in dict(self.lookup_choices):
            raise IncorrectLookupParameters
        return self.narrowed(queryset, value)

    def narrowed(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        """Return the rows that match `value`."""
        return queryset.filter(**{self.column: value})


class ClassFilter(Filter):
    """A filter by known executor classes. To list the classes in use, Django would read all rows."""

    title = "executor class"
    parameter_name = "class"
    everything = "all classes"
    values = tuple((known.value, known.value) for known in sorted(ExecutorClass))
    column = "executor_class"


class ClassFilterAside(ClassFilter):
    """The same filter as links in the sidebar."""

    template = "admin/filter.html"


class DecidedFilter(Filter):
    """A filter by the last hours or days, which an index serves."""

    title = parameter_name = "time"
    everything = "any time"
    values = (("1", "last hour"), ("24", "last 24 hours"), ("168", "last 7 days"))

    def narrowed(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        return queryset.filter(at__gt=clock.now() - dt.timedelta(hours=int(value)))


class OutcomeFilter(Filter):
    """A filter by outcome."""

    title = parameter_name = column = "outcome"
    everything = "all outcomes"
    values = tuple((outcome.value, str(outcome.label)) for outcome in Outcome)
