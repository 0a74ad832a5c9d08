"""The admin of the models of routing. It is read-only, except that incidents can be voided and tokens revoked."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.urls import URLPattern, path
from django.utils import timezone

from allowance.interface import MinerRow, Reservation, clock, wei_text
from allowance.plumbing.lists import JOB_OR_HOTKEY, ReadOnlyAdmin, link, time_column
from routing.access import tokens
from routing.log import replay
from routing.log.report import explain, happenings, in_order
from routing.models import (
    AccessToken,
    DecisionRecord,
    IncidentVersion,
    MinerIncident,
    Rejection,
    RoutedJob,
    UsedSignature,
)
from routing.pages import SEE_DECISIONS, SEE_MINER, SEE_RECEIPTS, incidents, miner_link
from routing.pages.board import board_page
from routing.pages.incident_counts import hotkeys
from routing.pages.ledger import ledger_page
from routing.pages.lists import (
    ClassFilter,
    ClassFilterAside,
    DecidedFilter,
    OfMinersAdmin,
    OutcomeFilter,
    SearchedByIndexAdmin,
)
from routing.pages.miner import miner_page
from routing.pages.sources import sources_page
from routing.pages.status import status_page


@admin.register(MinerIncident)
class MinerIncidentAdmin(SearchedByIndexAdmin):
    """The incidents, searchable by job uuid or by the beginning of a hotkey.

    The filters, the charts, the CSV export and the pages that void incidents are in `routing.pages.incidents`.
    """

    actions = ("void",)
    mere_field = "hotkey_ss58address"
    list_display = ("happened", "type", "executor_class", "hotkey", "job", "sent_by", "voided")
    list_filter = incidents.FILTERS
    linked = ("hotkey_ss58address__exact", "executor_class__exact")
    ordering = ("-timestamp",)
    search_fields = ("hotkey_ss58address__startswith",)
    sortable_by = ("happened", "hotkey", mere_field)  # columns with an index; the others have filters
    happened = time_column("timestamp", "time")
    void_time = time_column("voided_at", "voided at")

    def get_urls(self) -> list[URLPattern]:
        return [
            path("board/", board_page, name="routing_board"),
            path("miner/<path:hotkey>/", miner_page, name="routing_miner"),
            path("csv/", incidents.export, name="routing_minerincident_csv"),
            path("<int:pk>/void/", incidents.void, name="routing_minerincident_void"),
            *super().get_urls(),
        ]

    def has_void_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may void incidents. Django calls this for the `permissions` of the action."""
        return request.user.has_perms(incidents.VOID)

    @admin.action(description="Void selected incidents", permissions=["void"])
    def void(self, request: HttpRequest, queryset: QuerySet[MinerIncident]) -> HttpResponseBase | None:
        return incidents.void_selected(request, queryset)

    def get_changelist(self, request: HttpRequest, **kwargs: object) -> type[incidents.IncidentList]:
        return incidents.IncidentList

    def get_list_display(self, request: HttpRequest) -> tuple[str, ...]:
        seen = request.user.has_perms(SEE_DECISIONS)
        return tuple(column for column in super().get_list_display(request) if seen or column != "sent_by")

    def get_fields(self, request: HttpRequest, obj: MinerIncident | None = None) -> tuple[str, ...]:
        happened = [column for column in self.get_list_display(request) if column != "voided"]
        return (*happened, "void_time", "voided_by", "void_reason")

    def get_object(self, request: HttpRequest, *args: Any) -> MinerIncident | None:
        incident: MinerIncident | None = super().get_object(request, *args)
        if incident is not None:
            incidents.look_decisions_up([incident], request)
        return incident

    def hotkeys(self, term: str) -> list[str]:
        return hotkeys(term)

    @admin.display(description="miner", ordering="hotkey_ss58address")
    def hotkey(self, incident: MinerIncident) -> str:
        return miner_link(incident.hotkey_ss58address)

    @admin.display(description="job")
    def job(self, incident: MinerIncident) -> str:
        return link(incident.job_uuid, Reservation, q=incident.job_uuid)

    @admin.display(description="decision")
    def sent_by(self, incident: MinerIncident) -> str:
        return link("decision", DecisionRecord, incident.decision) if incident.decision else "-"

    @admin.display(description="voided")
    def voided(self, incident: MinerIncident) -> str:
        return "-" if incident.voided_at is None else "voided"


@admin.register(DecisionRecord)
class DecisionRecordAdmin(SearchedByIndexAdmin):
    """The decisions, searchable by job uuid or by the beginning of the winner's hotkey."""

    heavy = ("candidates",)
    list_display = ("decided", "outcome", "executor_class", "needed", "hotkey", "rank", "job", "took")
    list_filter = (DecidedFilter, OutcomeFilter, ClassFilter)
    linked = ("miner__exact",)
    sortable_by = ("decided",)  # an index serves this order
    ordering = ("-at", "-pk")
    search_fields = ("miner",)
    fields = (
        *("decided", "job", "outcome", "executor_class", "needed", "block", "hotkey", "rank", "scored", "reserved"),
        *("thresholds", "failed", "took"),
    )
    decided = time_column("at", "time")

    def hotkeys(self, term: str) -> list[str]:
        return [*MinerRow.objects.filter(hotkey__startswith=term).values_list("pk", flat=True), term]

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        record = self.get_object(request, unquote(object_id))
        allowed = record is not None and self.has_view_permission(request, record)
        shown = explanation(request, record) if record and allowed else {}
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **shown})

    def get_urls(self) -> list[URLPattern]:
        return [
            path("status/", status_page, name="routing_status"),
            path("ledger/", ledger_page, name="routing_ledger"),
            path("sources/", sources_page, name="routing_sources"),
            *super().get_urls(),
        ]

    @admin.display(description="seconds")
    def needed(self, decision: DecisionRecord) -> str:
        return f"{decision.seconds:g}"

    @admin.display(description="miner", ordering="miner")
    def hotkey(self, decision: DecisionRecord) -> str:
        fixed = decision.window_hours is None  # a miner named in the settings has no page
        return decision.miner or "-" if fixed or not decision.miner else miner_link(decision.miner)

    @admin.display(description="job", ordering="job_uuid")
    def job(self, decision: DecisionRecord) -> str:
        if decision.job_uuid is None:
            return "no uuid"
        return link(decision.job_uuid, DecisionRecord, q=decision.job_uuid)

    @admin.display(description="took", ordering="microseconds")
    def took(self, decision: DecisionRecord) -> str:
        waited = f", waited {decision.waited_us / 1000:.1f} ms for locks" if decision.waited_us else ""
        return f"{decision.microseconds / 1000:.1f} ms{waited}"

    @admin.display(description="score")
    def scored(self, decision: DecisionRecord) -> str:
        return "-" if decision.score is None else f"{decision.score:.3f}"

    @admin.display(description="reservation")
    def reserved(self, decision: DecisionRecord) -> str:
        pk = decision.reservation_id
        return "none" if pk is None else link(pk, Reservation, pk)

    @admin.display(description="thresholds in force")
    def thresholds(self, decision: DecisionRecord) -> str:
        if decision.window_hours is None:
            return "none: a fixed route"
        unused = f", {decision.unused_blocks} oldest blocks unused" if decision.unused_blocks else ""
        return f"collateral of {wei_text(decision.minimum_wei)}, incidents of {decision.window_hours:g} h{unused}"

    @admin.display(description="candidates that failed")
    def failed(self, decision: DecisionRecord) -> str:
        counted = ", ".join(f"{n} at {gate}" for gate, n in decision.counts.items())
        return f"{counted or 'none'}, of {decision.asked}"


def explanation(request: HttpRequest, record: DecisionRecord) -> dict[str, object]:
    """Return what a decision's page shows besides the record, without data that the user may not see elsewhere."""
    (explained,) = explain([record])
    may = request.user.has_perm
    shown = {"incidents": may("routing.view_minerincident"), "receipts": request.user.has_perms(SEE_RECEIPTS)}
    return {
        "explained": explained,
        "fate": explained.fate(clock.now(), reservations=may("allowance.view_reservation")),
        "candidates": in_order(explained.decision) if explained.decision else [],
        "differences": replay.differences(record),
        "happenings": happenings(record.job_uuid, **shown) if record.job_uuid else [],
        "sees_miner": request.user.has_perms(SEE_MINER),
    }


@admin.register(RoutedJob)
class RoutedJobAdmin(OfMinersAdmin):
    """The jobs that came over a socket, searchable by uuid or by the beginning of a hotkey."""

    uuid = "uuid"
    search_help_text = JOB_OR_HOTKEY
    list_display = ("uuid", "routed", "executor_class", "seconds", "hotkey", "route", "belongs_to")
    list_filter = (ClassFilterAside, "routed_at")
    ordering = ("-routed_at",)
    search_fields = ("miner__startswith",)
    fields = (*list_display, "tried", "others")

    routed = time_column("routed_at", "routed")

    @admin.display(description="miner", ordering="miner")
    def hotkey(self, job: RoutedJob) -> str:
        fixed = job.reservation_id is None  # a miner named in the settings has no page
        return job.miner if fixed else miner_link(job.miner)

    @admin.display(description="reservation")
    def route(self, job: RoutedJob) -> str:
        fixed = job.reservation_id is None
        return "none: a fixed route" if fixed else link(job.reservation_id, Reservation, job.reservation_id)

    @admin.display(description="owner")
    def belongs_to(self, job: RoutedJob) -> str:
        return job.owner or "not recorded"

    @admin.display(description="all reservations of the job")
    def others(self, job: RoutedJob) -> str:
        return link("reservations", Reservation, q=job.uuid)


@admin.register(Rejection)
class RejectionAdmin(OfMinersAdmin):
    """The rejections, searchable by job uuid or by the beginning of a hotkey."""

    uuid = "job_uuid"
    search_help_text = JOB_OR_HOTKEY
    list_display = ("happened", "executor_class", "hotkey", "job_uuid", "excused", "sentence")
    list_filter = (ClassFilterAside, "excused", "timestamp")
    ordering = ("-timestamp",)
    search_fields = ("miner__startswith",)
    fields = (*list_display, "executors", "jobs")

    happened = time_column("timestamp", "time")

    @admin.display(description="miner", ordering="miner")
    def hotkey(self, rejection: Rejection) -> str:
        return miner_link(rejection.miner)


@admin.register(UsedSignature)
class UsedSignatureAdmin(ReadOnlyAdmin):
    """The used signatures, searchable by job uuid or by the beginning of the signatory's address."""

    uuid = "job_uuid"
    search_help_text = JOB_OR_HOTKEY
    list_display = ("signatory", "signed_at_ns", "job")
    ordering = ("-pk",)
    search_fields = ("signatory__startswith",)
    fields = list_display

    @admin.display(description="job")
    def job(self, used: UsedSignature) -> str:
        return link(used.job_uuid, RoutedJob, used.job_uuid)


@admin.register(AccessToken)
class AccessTokenAdmin(ReadOnlyAdmin):
    """The access tokens, searchable by id or by the beginning of a name.

    A user with the permission to change tokens can revoke them, but can change nothing else.
    """

    uuid = "id"
    search_help_text = "a token's id or its first digits, or the beginning of a name"
    actions = ("revoke",)
    list_display = ("name", "what_for", "issued", "expires", "state")
    list_filter = ("issued_at", "expires_at", ("revoked_at", admin.EmptyFieldListFilter))
    ordering = ("-issued_at",)
    search_fields = ("name__startswith",)
    fields = ("id", *list_display, "revoked")
    issued = time_column("issued_at", "issued")
    expires = time_column("expires_at", "expires")
    revoked = time_column("revoked_at", "revoked")

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may revoke tokens. Django calls this for the `permissions` of the action."""
        return request.user.has_perm("routing.change_accesstoken")

    @admin.action(description="Revoke selected tokens", permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[AccessToken]) -> None:
        revoked = [row for token in queryset for row in tokens.revoke(token.pk)]
        for row in revoked:
            self.log_change(request, row, "Revoked.")
        self.message_user(request, f"{len(revoked)} of {len(queryset)} tokens were live and are now revoked.")

    @admin.display(description="scopes")
    def what_for(self, token: AccessToken) -> str:
        return ", ".join(token.scopes)

    @admin.display(description="state")
    def state(self, token: AccessToken) -> str:
        return tokens.state_at(token, timezone.now())


# A row only shows that its class has had an incident: the version is a random number.
admin.site.register(IncidentVersion, ReadOnlyAdmin)
