"""The receipts in the admin: evidence, to be read only."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.conf import settings
from django.contrib import admin
from django.contrib.admin.exceptions import DisallowedModelAdminLookup
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import SEARCH_VAR
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.urls import URLPattern

from receipts.models import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin

MAX_LISTED = 10_000
"""A list ends there: counting all receipts takes too long. Search and filters reach the others."""

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


def never(self: object, request: HttpRequest, obj: Model | None = None) -> bool:
    """Permit nobody: a changed receipt is no evidence."""
    return False


class ReceiptAdmin(ModelAdmin):
    """Found by job, or by the beginning of a hotkey."""

    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    ordering = ("-pk",)
    search_fields = ("miner_hotkey__startswith", "validator_hotkey__startswith")
    has_add_permission = has_change_permission = has_delete_permission = never

    def get_urls(self) -> list[URLPattern]:
        urls = super().get_urls()
        for url in urls:
            url.callback = strict(url.callback)
        return urls

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Allow what the filters and links to a miner's receipts ask for. Others, which Django allows, may fail."""
        names = (getattr(each, "parameter_name", each) for each in self.list_filter)
        columns = [name[0] if isinstance(name, tuple) else name for name in names]
        return lookup in {"miner_hotkey__exact", *(f"{column}{suffix}" for column in columns for suffix in SUFFIXES)}

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """Return the list that an address asks for. One that no database can look for is told so, as Django does."""
        for name, values in request.GET.lists():  # what is searched for is checked by Django itself
            if "\0" in name or (name != SEARCH_VAR and any("\0" in value for value in values)):
                raise IncorrectLookupParameters
        try:
            return super().get_changelist_instance(request)
        except (OverflowError, DisallowedModelAdminLookup) as error:
            raise IncorrectLookupParameters from error

    def get_paginator(self, request: HttpRequest, queryset: QuerySet[Any], *args: Any, **kwargs: Any) -> Paginator[Any]:
        return super().get_paginator(request, queryset[:MAX_LISTED], *args, **kwargs)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        try:
            return queryset.filter(job_uuid=UUID(search_term.strip())), False
        except ValueError:
            return super().get_search_results(request, queryset, search_term)


@admin.register(JobStartedReceipt)
class JobStartedReceiptAdmin(ReceiptAdmin):
    list_display = ("job_uuid", "executor_class", "miner_hotkey", "timestamp", "ttl", "valid_until", "is_organic")
    list_filter = ("executor_class", "is_organic", "timestamp")
    readonly_fields = ("valid_until",)


@admin.register(JobAcceptedReceipt)
class JobAcceptedReceiptAdmin(ReceiptAdmin):
    list_display = ("job_uuid", "miner_hotkey", "time_accepted", "timestamp", "ttl", "valid_until")
    list_filter = ("timestamp",)
    readonly_fields = ("valid_until",)


@admin.register(JobFinishedReceipt)
class JobFinishedReceiptAdmin(ReceiptAdmin):
    list_display = ("job_uuid", "miner_hotkey", "time_started", "seconds", "timestamp", "score_str", "block_count")
    list_filter = ("timestamp",)

    @admin.display(description="seconds taken", ordering="time_took_us")
    def seconds(self, receipt: JobFinishedReceipt) -> float:
        return receipt.time_took_us / 1_000_000

    @admin.display(description="blocks")
    def block_count(self, receipt: JobFinishedReceipt) -> int:
        return len(receipt.block_numbers)
