"""Lists of the admin: read only, as fast with many rows as with few, and searched by index where they can be."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlencode
from uuid import UUID

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import quote
from django.contrib.admin.views.main import SEARCH_VAR
from django.core.exceptions import BadRequest, ValidationError
from django.core.paginator import Paginator
from django.core.validators import ProhibitNullCharactersValidator
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, reverse
from django.utils.html import format_html

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin

MAX_LISTED = 10_000
"""A list ends there: counting all rows of a big table takes too long. Search and filters reach the others."""


POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
"""What pages may load and do: nothing from elsewhere, nothing inline."""

SUFFIXES = ("", "__exact", "__isnull", "__isempty", "__gte", "__lt")
"""The lookups of Django's filters."""


def strict(view: Callable[..., Any]) -> Callable[..., Any]:
    """Send POLICY with what a view answers, unless it or the site has a policy of its own.

    Middleware that sends one may leave ours in place, so there must be none; middleware that overwrites does so.
    """

    @wraps(view)
    def strictly(*args: Any, **kwargs: Any) -> Any:
        response = view(*args, **kwargs)
        names = (name.rpartition(".")[2].lower() for name in settings.MIDDLEWARE)
        if not any("csp" in name or "contentsecuritypolicy" in name for name in names):
            response.headers.setdefault("Content-Security-Policy", POLICY)
        return response

    return strictly


UUID_BEGINNING = 6
"""So many first digits of a UUID are searched for: there are rows of few others that begin with the same ones."""

JOB_OR_HOTKEY = f"a job's uuid or its first {UUID_BEGINNING} digits or more, or the beginning of a hotkey"
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

    linked: tuple[str, ...] = ()
    """Lookups that links to the list have."""

    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    ordering: ClassVar[tuple[str, ...]] = ("-pk",)
    has_add_permission = has_change_permission = has_delete_permission = never

    def get_urls(self) -> list[URLPattern]:
        urls = super().get_urls()
        for url in urls:
            url.callback = strict(url.callback)
        return urls

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Allow what the filters ask for, and links. Any lookup of any column, which Django allows, can fail."""
        names = (getattr(each, "parameter_name", each) for each in self.list_filter)
        columns = [name[0] if isinstance(name, tuple) else name for name in names]
        return lookup in {*self.linked, *(f"{column}{suffix}" for column in columns for suffix in SUFFIXES)}

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """Return the list for an address. Raise BadRequest, which Django answers with 400, for an impossible filter."""
        for name, values in request.GET.lists():  # what is searched for is checked by Django itself
            if "\0" in name or (name != SEARCH_VAR and any("\0" in value for value in values)):
                raise BadRequest("An address has no NUL.")
        try:
            return super().get_changelist_instance(request)
        except OverflowError as error:
            raise BadRequest("A filter's value is beyond what the database can compare.") from error

    def response_action(
        self, request: HttpRequest, queryset: QuerySet[Any], *args: Any, **kwargs: Any
    ) -> HttpResponse | None:
        """Run an action on the selected rows. Raise BadRequest if a selected key can't be the key of a row."""
        for key in request.POST.getlist(ACTION_CHECKBOX_NAME):
            try:
                ProhibitNullCharactersValidator()(key)
                self.opts.pk.clean(key, None)
            except ValidationError as error:
                raise BadRequest(f"No row can have the key {key!r:.80}.") from error
        return super().response_action(request, queryset, *args, **kwargs)

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """Return the row of a page; PostgreSQL can't even be asked for a text with NUL."""
        return None if "\0" in object_id else super().get_object(request, object_id, from_field)

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
                least, greatest = uuids_beginning(search_term.strip())
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


def uuids_beginning(text: str) -> tuple[UUID, UUID]:
    """Return the least and the greatest UUID that begin as `text` does, with or without hyphens.

    Raises ValueError for fewer than UUID_BEGINNING digits: they may as well be the beginning of something else.
    """
    digits = text.replace("-", "").lower()
    if re.fullmatch(f"[0-9a-f]{{{UUID_BEGINNING},32}}", digits):
        return UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))
    raise ValueError(f"A UUID begins with {UUID_BEGINNING} or more hexadecimal digits, not {text!r:.80}.")


def link(text: object, model: type[Model], pk: object = None, **query: object) -> str:
    """Return the link to a row's page, or, without `pk`, to the list of its kind with `query`."""
    page = f"admin:{model._meta.app_label}_{model._meta.model_name}_"
    address = reverse(page + "changelist") if pk is None else reverse(page + "change", args=[quote(str(pk))])
    return format_html('<a href="{}">{}</a>', address + (f"?{urlencode(query)}" if query else ""), text)
