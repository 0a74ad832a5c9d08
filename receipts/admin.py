"""The receipts in the admin: evidence, which can be voided, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.views.main import SEARCH_VAR
from django.core.exceptions import BadRequest, PermissionDenied, ValidationError
from django.core.paginator import Paginator
from django.core.validators import ProhibitNullCharactersValidator
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone

from receipts.models import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt, Receipt
from receipts.pages import VoidForm
from receipts.types import ReceiptAlreadyVoided
from receipts.voiding import NAME_LENGTH, void_receipt

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


UUID_BEGINNING = 6
"""So many first digits of a UUID are searched for: there are rows of few others that begin with the same ones."""
MAX_VOIDED = 500
"""The most receipts that are voided from a page; `manage.py void_receipts` takes more."""

VOID = "router_receipts.void_receipts"
VOIDED_FILTER = ("voided_at", admin.EmptyFieldListFilter)


def never(self: object, request: HttpRequest, obj: Model | None = None) -> bool:
    """Permit nobody: a changed receipt is no evidence."""
    return False


class ReceiptAdmin(ModelAdmin):
    """Found by job, or by the beginning of a hotkey. Voided by those with the permission to, with a reason."""

    actions = ("void",)
    change_form_template = "receipts/change_form.html"
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    ordering = ("-pk",)
    search_fields = ("miner_hotkey__startswith", "validator_hotkey__startswith")
    search_help_text = f"a job's uuid or its first {UUID_BEGINNING} digits or more, or the beginning of a hotkey"
    has_add_permission = has_change_permission = has_delete_permission = never

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.void_page)
        urls = [path("<int:pk>/void/", view, name=self._named("void")), *super().get_urls()]
        for url in urls:
            url.callback = strict(url.callback)
        return urls

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Allow what the filters ask for, and links to a miner's receipts. Not any lookup of any column can be run."""
        names = (getattr(each, "parameter_name", each) for each in self.list_filter)
        columns = [name[0] if isinstance(name, tuple) else name for name in names]
        return lookup in {"miner_hotkey__exact", *(f"{column}{suffix}" for column in columns for suffix in SUFFIXES)}

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

    def get_paginator(self, request: HttpRequest, queryset: QuerySet[Any], *args: Any, **kwargs: Any) -> Paginator[Any]:
        return super().get_paginator(request, queryset[:MAX_LISTED], *args, **kwargs)

    def has_void_permission(self, request: HttpRequest) -> bool:
        """Tell whether to offer the action: Django asks by its `permissions`."""
        return request.user.has_perm(VOID)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        receipt = self.get_object(request, object_id)
        offered = receipt is not None and receipt.voided_at is None and self.has_void_permission(request)
        url = reverse(f"admin:{self._named('void')}", args=[receipt.pk]) if receipt is not None and offered else None
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), "void_url": url})

    def void_page(self, request: HttpRequest, pk: int) -> HttpResponseBase:
        """Ask why a receipt should not count, and void it."""
        if not (self.has_view_permission(request) and self.has_void_permission(request)):
            raise PermissionDenied
        receipt = get_object_or_404(self.model, pk=pk)
        back = reverse(f"admin:{self._named('change')}", args=[pk])
        if receipt.voided_at is not None:
            done = ReceiptAlreadyVoided(receipt, receipt.voided_by, receipt.voided_at)
            self.message_user(request, str(done), messages.ERROR)
            return redirect(back)
        form = VoidForm(request.POST or None)
        if form.is_valid():
            self._void_all(request, [receipt], form.cleaned_data["reason"])
            return redirect(back)
        return self._ask_why(request, [receipt], form, back=back, hidden=[])

    @admin.action(description="Void selected receipts", permissions=["void"])
    def void(self, request: HttpRequest, queryset: QuerySet[Receipt]) -> HttpResponseBase | None:
        """Ask once why receipts should not count, and void those that are not voided yet."""
        receipts = list(queryset.filter(voided_at=None)[: MAX_VOIDED + 1])
        if not receipts or len(receipts) > MAX_VOIDED:
            problem = f"More than {MAX_VOIDED}: use manage.py void_receipts." if receipts else "All of them are voided."
            self.message_user(request, problem, messages.ERROR)
            return None
        form = VoidForm(request.POST if "reason" in request.POST else None)
        if form.is_valid():
            self._void_all(request, receipts, form.cleaned_data["reason"])
            return None
        hidden = [("action", "void"), *((ACTION_CHECKBOX_NAME, str(receipt.pk)) for receipt in receipts)]
        return self._ask_why(request, receipts, form, back=request.get_full_path(), hidden=hidden)

    def _void_all(self, request: HttpRequest, receipts: Sequence[Receipt], reason: str) -> None:
        voided = 0
        for receipt in receipts:
            try:
                name = request.user.get_username()[:NAME_LENGTH]
                row = void_receipt(receipt, by=name, reason=reason, now=timezone.now())
            except ReceiptAlreadyVoided as error:
                self.message_user(request, str(error), messages.ERROR)
            else:
                self.log_change(request, row, f"Voided: {reason}")
                voided += 1
        if voided:
            what = f"{receipts[0]} is voided and does" if voided == 1 else f"{voided} receipts are voided and do"
            self.message_user(request, f"{what} not count any more.", messages.SUCCESS)

    def _ask_why(
        self,
        request: HttpRequest,
        receipts: Sequence[Receipt],
        form: VoidForm,
        *,
        back: str,
        hidden: Sequence[tuple[str, str]],
    ) -> TemplateResponse:
        one = len(receipts) == 1
        context = {
            **self.admin_site.each_context(request),
            "title": f"Void {'a receipt' if one else f'{len(receipts)} receipts'}",
            "opts": self.opts,
            "listed": reverse(f"admin:{self._named('changelist')}"),
            "receipts": receipts,
            "form": form,
            "hidden": hidden,
            "back": back,
            "what_follows": "From the next pick on all counts as if this had never been recorded.",
            "submit": f"Void {'this receipt' if one else f'these {len(receipts)} receipts'}",
        }
        return TemplateResponse(request, "receipts/void.html", context)

    def _named(self, view: str) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}_{view}"

    @admin.display(description="voided", ordering="voided_at")
    def voided(self, receipt: Receipt) -> str:
        return "-" if receipt.voided_at is None else "voided"

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
    list_display = (
        "job_uuid",
        "executor_class",
        "miner_hotkey",
        "timestamp",
        "ttl",
        "valid_until",
        "is_organic",
        "voided",
    )
    list_filter = ("executor_class", "is_organic", "timestamp", VOIDED_FILTER)
    readonly_fields = ("valid_until",)


@admin.register(JobAcceptedReceipt)
class JobAcceptedReceiptAdmin(ReceiptAdmin):
    list_display = ("job_uuid", "miner_hotkey", "time_accepted", "timestamp", "ttl", "valid_until", "voided")
    list_filter = ("timestamp", VOIDED_FILTER)
    readonly_fields = ("valid_until",)


@admin.register(JobFinishedReceipt)
class JobFinishedReceiptAdmin(ReceiptAdmin):
    list_display = (
        "job_uuid",
        "miner_hotkey",
        "time_started",
        "seconds",
        "timestamp",
        "score_str",
        "block_count",
        "voided",
    )
    list_filter = ("timestamp", VOIDED_FILTER)

    @admin.display(description="seconds taken", ordering="time_took_us")
    def seconds(self, receipt: JobFinishedReceipt) -> float:
        return receipt.time_took_us / 1_000_000

    @admin.display(description="blocks")
    def block_count(self, receipt: JobFinishedReceipt) -> int:
        return len(receipt.block_numbers)
