"""The receipts in the admin. A receipt is evidence: it can be voided, but not changed or deleted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from allowance import clock
from allowance.plumbing.lists import JOB_OR_HOTKEY, ReadOnlyAdmin, strict
from receipts.models import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt, Receipt
from receipts.types import ReceiptAlreadyVoided
from receipts.voiding import NAME_LENGTH, VoidForm, void_receipt

MAX_VOIDED = 500
"""The maximum number of receipts that a page voids at once. `manage.py void_receipts` has no such limit."""

VOID = "router_receipts.void_receipts"
VOIDED_FILTER = ("voided_at", admin.EmptyFieldListFilter)


class ReceiptAdmin(ReadOnlyAdmin):
    """Pages of receipts. Users search by job or beginning of a hotkey; with the permission, they void with a reason."""

    actions = ("void",)
    change_form_template = "receipts/change_form.html"
    search_fields = ("miner_hotkey__startswith", "validator_hotkey__startswith")
    search_help_text = JOB_OR_HOTKEY
    uuid = "job_uuid"
    linked = ("miner_hotkey__exact",)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.void_page)
        return [path("<int:pk>/void/", strict(view), name=self._named("void")), *super().get_urls()]

    def has_void_permission(self, request: HttpRequest) -> bool:
        """Return whether to offer the action. Django calls this because of `permissions` of the action."""
        return request.user.has_perm(VOID)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        receipt = self.get_object(request, object_id)
        offered = receipt is not None and receipt.voided_at is None and self.has_void_permission(request)
        url = reverse(f"admin:{self._named('void')}", args=[receipt.pk]) if receipt is not None and offered else None
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), "void_url": url})

    def void_page(self, request: HttpRequest, pk: int) -> HttpResponseBase:
        """Ask for the reason to void a receipt, and void it."""
        if not (self.has_view_permission(request) and self.has_void_permission(request)):
            raise PermissionDenied
        receipt = get_object_or_404(self.model, pk=pk)
        back = reverse(f"admin:{self._named('change')}", args=[pk])
        if receipt.voided_at is not None:
            done = ReceiptAlreadyVoided(receipt, receipt.voided_by, receipt.voided_at)
            self.message_user(request, str(done), messages.ERROR)
            return redirect(back)
        return self._ask_and_void(request, [receipt], back=back) or redirect(back)

    @admin.action(description="Void selected receipts", permissions=["void"])
    def void(self, request: HttpRequest, queryset: QuerySet[Receipt]) -> HttpResponseBase | None:
        """Ask once for the reason to void the selected receipts, and void those that are not voided yet."""
        receipts = list(queryset.filter(voided_at=None)[: MAX_VOIDED + 1])
        if not receipts or len(receipts) > MAX_VOIDED:
            too_many = f"More than {MAX_VOIDED} receipts are selected. Use manage.py void_receipts."
            self.message_user(
                request, too_many if receipts else "All selected receipts are already voided.", messages.ERROR
            )
            return None
        hidden = [("action", "void"), *((ACTION_CHECKBOX_NAME, str(receipt.pk)) for receipt in receipts)]
        return self._ask_and_void(request, receipts, back=request.get_full_path(), hidden=hidden)

    def _ask_and_void(
        self,
        request: HttpRequest,
        receipts: Sequence[Receipt],
        *,
        back: str,
        hidden: Sequence[tuple[str, str]] = (),
    ) -> TemplateResponse | None:
        """Return the page that asks for the reason. If the request has a valid reason, void, and return None."""
        form = VoidForm(request.POST if "reason" in request.POST else None)
        if form.is_valid():
            self._void_all(request, receipts, form.cleaned_data["reason"])
            return None
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
            "what_follows": f"From the next pick on, {'this receipt does' if one else 'these receipts do'} not count.",
            "submit": f"Void {'this receipt' if one else f'these {len(receipts)} receipts'}",
        }
        return TemplateResponse(request, "receipts/void.html", context)

    def _void_all(self, request: HttpRequest, receipts: Sequence[Receipt], reason: str) -> None:
        voided, name = 0, request.user.get_username()[:NAME_LENGTH]
        for receipt in receipts:
            try:
                row = void_receipt(receipt, by=name, reason=reason, now=clock.now())
            except ReceiptAlreadyVoided as error:
                self.message_user(request, str(error), messages.ERROR)
            else:
                self.log_change(request, row, f"Voided: {reason}")
                voided += 1
        if voided:
            what = f"{receipts[0]} is voided and does" if voided == 1 else f"{voided} receipts are voided and do"
            self.message_user(request, f"{what} not count any more.", messages.SUCCESS)

    def _named(self, view: str) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}_{view}"

    @admin.display(description="voided", ordering="voided_at")
    def voided(self, receipt: Receipt) -> str:
        return "-" if receipt.voided_at is None else "voided"


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

    @admin.display(description="seconds", ordering="time_took_us")
    def seconds(self, receipt: JobFinishedReceipt) -> float:
        return receipt.time_took_us / 1_000_000

    @admin.display(description="blocks")
    def block_count(self, receipt: JobFinishedReceipt) -> int:
        return len(receipt.block_numbers)
