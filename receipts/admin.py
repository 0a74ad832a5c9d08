"""The receipts in the admin: evidence, to be read only."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.contrib import admin, messages
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse

from receipts.models import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin

MAX_LISTED = 10_000
"""A list ends there: counting all receipts takes too long. Search and filters reach the others."""


UUID_BEGINNING = 6
"""So many first digits of a UUID are searched for: there are rows of few others that begin with the same ones."""


def never(self: object, request: HttpRequest, obj: Model | None = None) -> bool:
    """Permit nobody: a changed receipt is no evidence."""
    return False


class ReceiptAdmin(ModelAdmin):
    """Found by job, or by the beginning of a hotkey."""

    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    ordering = ("-pk",)
    search_fields = ("miner_hotkey__startswith", "validator_hotkey__startswith")
    search_help_text = f"a job's uuid or its first {UUID_BEGINNING} digits or more, or the beginning of a hotkey"
    has_add_permission = has_change_permission = has_delete_permission = never

    def get_paginator(self, request: HttpRequest, queryset: QuerySet[Any], *args: Any, **kwargs: Any) -> Paginator[Any]:
        return super().get_paginator(request, queryset[:MAX_LISTED], *args, **kwargs)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        digits = search_term.strip().replace("-", "")
        if re.fullmatch(f"(?i:[0-9a-f]{{{UUID_BEGINNING},32}})", digits):
            found = queryset.filter(job_uuid__range=(UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))))
            if len(digits) == 32 or found.exists():
                return found, False
        return super().get_search_results(request, queryset, search_term)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        response = super().changelist_view(request, extra_context)
        listed = getattr(response, "context_data", {}).get("cl")
        if listed is not None and listed.query and not listed.result_count:
            messages.warning(request, f"“{listed.query:.80}” finds nothing. Search takes {self.search_help_text}.")
        return response


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
