"""Admin lists that are read-only, that stay fast with many rows, and that search by index where possible."""

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

from allowance.plumbing.console import to_the_second

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin

MAX_LISTED = 10_000
"""The maximum number of rows in a list: to count a big table takes too long. Search and filters find other rows."""


POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
"""The Content-Security-Policy of pages. They load nothing from other sites and run nothing inline."""

SUFFIXES = ("", "__exact", "__isnull", "__isempty", "__gte", "__lt")
"""The lookups that Django's filters use."""


def strict(view: Callable[..., Any]) -> Callable[..., Any]:
    """Send POLICY with the responses of a view, unless the response or the site has a policy of its own.

    CSP middleware may keep a header that is already set, so no header is set if the site has such middleware. Any other
    middleware that overwrites the header still does so.
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
"""The minimum number of digits for a search by the beginning of a UUID. Few UUIDs begin with the same digits."""

JOB_OR_HOTKEY = f"the start of a hotkey, or of a job's uuid ({UUID_BEGINNING} characters or more)"
"""The help text of the search in most lists."""


def never(self: object, request: HttpRequest, obj: Model | None = None) -> bool:
    """Deny the permission to all users: rows derive from others or record what happened, so edits make them wrong."""
    return False


class ReadOnlyAdmin(ModelAdmin):
    """Admin pages that are read-only and stay fast with many rows.

    They use no `date_hierarchy`, which truncates the date of every row, and no facets, which count all rows once for
    each choice.
    """

    number: str | None = None
    """The indexed column in which a search finds a number. Django's own `__exact` search would cast the column."""

    uuid: str | None = None
    """The indexed column in which a search finds a UUID, or UUIDs by their beginning."""

    heavy: tuple[str, ...] = ()
    """Columns that only the page of one row needs. Lists do not load them."""

    linked: tuple[str, ...] = ()
    """Lookups that links to the list use."""

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
        """Allow the lookups of filters and links only. Django allows any lookup of any column, and some can fail."""
        names = (getattr(each, "parameter_name", each) for each in self.list_filter)
        columns = [name[0] if isinstance(name, tuple) else name for name in names]
        return lookup in {*self.linked, *(f"{column}{suffix}" for column in columns for suffix in SUFFIXES)}

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """Return the list for a request. Raises BadRequest (status 400) for a filter that the database can't apply."""
        for name, values in request.GET.lists():  # Django itself checks the search term
            if "\0" in name or (name != SEARCH_VAR and any("\0" in value for value in values)):
                raise BadRequest("The address of a page must not contain a NUL character.")
        try:
            return super().get_changelist_instance(request)
        except OverflowError as error:
            raise BadRequest(
                "The value of a filter is too large or too small for the database. Choose another value."
            ) from error

    def response_action(
        self, request: HttpRequest, queryset: QuerySet[Any], *args: Any, **kwargs: Any
    ) -> HttpResponse | None:
        """Run an action on the selected rows. Raises BadRequest if a selected key can't be the key of a row."""
        for key in request.POST.getlist(ACTION_CHECKBOX_NAME):
            try:
                ProhibitNullCharactersValidator()(key)
                self.opts.pk.clean(key, None)
            except ValidationError as error:
                raise BadRequest(f"{key!r:.80} can't be the key of a row. Select rows in the list.") from error
        return super().response_action(request, queryset, *args, **kwargs)

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """Return the row of a page, or None. PostgreSQL does not accept a text with NUL as a parameter."""
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
        """Return the rows that match a search term that is not a number or a UUID."""
        found, _ = super().get_search_results(request, queryset, term)
        return found

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        response = super().changelist_view(request, extra_context)
        listed = getattr(response, "context_data", {}).get("cl")
        if listed is not None and listed.query and not listed.result_count:
            messages.warning(request, f"Nothing found for “{listed.query:.80}”. Search by {self.search_help_text}.")
        return response


def time_column(field: str, title: str) -> Callable[[Any, Any], str]:
    """Return a column of an admin that shows a time with its seconds, which the admin's own format leaves out."""

    @admin.display(description=title, ordering=field)
    def shown(_admin: Any, row: Any) -> str:
        time = getattr(row, field)
        return "-" if time is None else to_the_second(time)

    return shown


def uuids_beginning(text: str) -> tuple[UUID, UUID]:
    """Return the least and the greatest UUID that begin with the digits of `text`, which may have hyphens.

    Raises ValueError unless there are UUID_BEGINNING to 32 hexadecimal digits. Fewer digits may be the beginning of
    something else.
    """
    digits = text.replace("-", "").lower()
    if re.fullmatch(f"[0-9a-f]{{{UUID_BEGINNING},32}}", digits):
        return UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))
    raise ValueError(f"A UUID must begin with {UUID_BEGINNING} or more hexadecimal digits, not {text!r:.80}.")


def link(text: object, model: type[Model], pk: object = None, **query: object) -> str:
    """Return an HTML link to a row's page or, without `pk`, to the list of the model with `query`."""
    page = f"admin:{model._meta.app_label}_{model._meta.model_name}_"
    address = reverse(page + "changelist") if pk is None else reverse(page + "change", args=[quote(str(pk))])
    return format_html('<a href="{}">{}</a>', address + (f"?{urlencode(query)}" if query else ""), text)
