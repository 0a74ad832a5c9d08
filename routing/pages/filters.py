"""Filters of lists, shown as choices in a form above the list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.db.models import QuerySet
from django.http import HttpRequest

from allowance.interface import ExecutorClass

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin


class Filter(admin.SimpleListFilter):
    """A filter in the form above the list. The sidebar does not show it."""

    template = "routing/filter.html"
    everything = ""
    """The label of the choice that does not filter."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        if not value:
            return queryset
        if value not in dict(self.lookup_choices):
            raise IncorrectLookupParameters
        return self.narrowed(queryset, value)

    def narrowed(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        """Return the rows that match `value`."""
        raise NotImplementedError


class ClassFilter(Filter):
    """A filter by known executor classes. To list the classes in use, Django would read all rows."""

    title = "executor class"
    parameter_name = "class"
    everything = "all classes"

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin) -> list[tuple[str, str]]:
        return [(known, known) for known in sorted(ExecutorClass)]

    def narrowed(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        return queryset.filter(executor_class=value)


class ClassFilterAside(ClassFilter):
    """The same filter as links in the sidebar."""

    template = "admin/filter.html"
