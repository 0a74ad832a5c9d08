"""Lists of the admin: read only, as fast with many rows as with few, and searched by index where they can be."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.contrib.admin.utils import quote
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html

from allowance import validation

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin

MAX_LISTED = 10_000
"""A list ends there: counting all rows of a big table takes too long. Search and filters reach the others."""


JOB_OR_HOTKEY = f"a job's uuid or its first {validation.UUID_BEGINNING} digits or more, or the beginning of a hotkey"
"""What most lists are searched for."""


def never(self: object, request: HttpRequest, obj: Model | None = None) -> bool:
    """Permit nobody: rows follow from each other, or from what happened; a change by hand makes them false."""
    return False


class ReadOnlyAdmin(ModelAdmin):
    """Pages that are read only, and as fast with many rows as with few.

    No `date_hierarchy`: it truncates the date of every row. No facets: they count all rows once for each choice.
    """

    number: str | None = None
    """The indexed column of numbers that a search term names: `__exact` of Django would cast the column instead."""

    uuid: str | None = None
    """The indexed column of UUIDs, of which a search term may be the beginning."""

    heavy: tuple[str, ...] = ()
    """Columns that only the page of one row needs."""

    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    ordering: ClassVar[tuple[str, ...]] = ("-pk",)
    has_add_permission = has_change_permission = has_delete_permission = never

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).defer(*self.heavy)

    def get_paginator(self, request: HttpRequest, queryset: QuerySet[Any], *args: Any, **kwargs: Any) -> Paginator[Any]:
        return super().get_paginator(request, queryset[:MAX_LISTED], *args, **kwargs)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        with suppress(ValueError):
            if self.number is not None:
                return queryset.filter(**{self.number: int(search_term)}), False
            if self.uuid is not None:
                least, greatest = validation.uuids_beginning(search_term.strip())
                found = queryset.filter(**{f"{self.uuid}__range": (least, greatest)})
                if least == greatest or found.exists():
                    return found, False
        return self.search(request, queryset, search_term.strip()), False

    def search(self, request: HttpRequest, queryset: QuerySet[Any], term: str) -> QuerySet[Any]:
        """Return the rows that match a term which is no number or UUID."""
        found, _ = super().get_search_results(request, queryset, term)
        return found

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        response = super().changelist_view(request, extra_context)
        listed = getattr(response, "context_data", {}).get("cl")
        if listed is not None and listed.query and not listed.result_count:
            messages.warning(request, f"“{listed.query:.80}” finds nothing. Search takes {self.search_help_text}.")
        return response


def link(text: object, model: type[Model], pk: object = None, **query: object) -> str:
    """Return the link to a row's page, or, without `pk`, to the list of its kind with `query`."""
    page = f"admin:{model._meta.app_label}_{model._meta.model_name}_"
    address = reverse(page + "changelist") if pk is None else reverse(page + "change", args=[quote(str(pk))])
    return format_html('<a href="{}">{}</a>', address + (f"?{urlencode(query)}" if query else ""), text)
