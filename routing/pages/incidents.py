"""The list of incidents with its filters, charts and CSV export, and the pages that void incidents."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, cast

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ERROR_FLAG, SEARCH_VAR, ChangeList
from django.contrib.auth.models import AbstractBaseUser
from django.core.handlers.asgi import ASGIRequest
from django.db.models import Max
from django.http import Http404, HttpRequest, HttpResponseBase, StreamingHttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from allowance.interface import BadInputError, LockTimeout, clock, validation
from allowance.plumbing.buckets import UtcDay, UtcHour
from allowance.plumbing.threads import in_database_thread
from receipts.interface import NAME_LENGTH, VoidForm
from routing.incidents import IncidentAlreadyVoided, void_incident
from routing.models import MinerIncident
from routing.pages import SEE_DECISIONS, SEE_INCIDENTS, SEE_MINER, incident_counts, miner_address, needs, show
from routing.pages.charts import Chart
from routing.pages.incident_counts import Incidents, Stretch
from routing.pages.lists import ClassFilter, Filter
from routing.types import MinerIncidentType
from routing.upkeep.voiding import groups, log, void_for

VOID = (*SEE_INCIDENTS, "routing.void_incidents")

STRETCHES = {
    "24h": Stretch("last 24 hours", 24, UtcHour),
    "7d": Stretch("last 7 days", 7 * 24, UtcHour),
    "30d": Stretch("last 30 days", 30, UtcDay),
    "90d": Stretch("last 90 days", 90, UtcDay),
    "365d": Stretch("last 365 days", 365, UtcDay),
}
AT_FIRST, LONGEST, ANY_TIME = "7d", "365d", "any"
WORST = 15
SAMPLE = 10
"""Number of incidents shown before they are voided, newest first."""

MAX_ID = 2**63 - 1


class TimeFilter(Filter):
    """A filter by time. The default is AT_FIRST, or any time if there is a search."""

    title = parameter_name = "time"
    values = (
        *((key, f"{stretch.title}, by {stretch.bucket.unit}") for key, stretch in STRETCHES.items()),
        (ANY_TIME, "any time"),
    )

    def __init__(self, request: HttpRequest, *arguments: Any) -> None:
        super().__init__(request, *arguments)
        self.now = clock.now()
        at_first = ANY_TIME if request.GET.get(SEARCH_VAR) else AT_FIRST
        self.used_parameters[self.parameter_name] = self.value() or at_first

    def narrowed(self, queryset: Incidents, value: str) -> Incidents:
        return queryset if value == ANY_TIME else STRETCHES[value].of(queryset, self.now)


class TypeFilter(Filter):
    title = parameter_name = column = "type"
    everything = "all types"
    values = tuple((kind.value, kind.label) for kind in MinerIncidentType)


class VoidedFilter(Filter):
    title = parameter_name = "voided"
    everything = "voided or not"
    values = (("no", "not voided"), ("yes", "voided"))

    def narrowed(self, queryset: Incidents, value: str) -> Incidents:
        return queryset.filter(voided_at__isnull=value == "no")


class MinerFilter(Filter):
    """A filter by a complete hotkey. To find miners by the start of a hotkey, use the search field."""

    title = parameter_name = "miner"

    def has_output(self) -> bool:
        return True

    def queryset(self, request: HttpRequest, queryset: Incidents) -> Incidents:
        try:
            return queryset.filter(hotkey_ss58address=validation.hotkey(value)) if (value := self.value()) else queryset
        except BadInputError as error:
            raise IncorrectLookupParameters from error


FILTERS = (TimeFilter, ClassFilter, TypeFilter, MinerFilter, VoidedFilter)


class IncidentList(ChangeList):
    """The list of incidents, with its charts and links."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.title = "Incidents"

    def get_results(self, request: HttpRequest) -> None:
        """Read a page of the list. If the user may see decisions, find the decision that sent each job."""
        super().get_results(request)
        self.sees_miners = request.user.has_perms(SEE_MINER)
        self.result_list = list(self.result_list)
        look_decisions_up(self.result_list, request)

    @property
    def beside_filters(self) -> dict[str, str]:
        """The parameters that the filter form keeps."""
        return self._without(*(spec.parameter_name for spec in FILTERS))

    @property
    def beside_search(self) -> dict[str, str]:
        """The parameters that the search keeps. It drops the time, so a new search covers all time."""
        return self._without(SEARCH_VAR, TimeFilter.parameter_name)

    def _without(self, *names: str | None) -> dict[str, str]:
        return {name: value for name, value in self.params.items() if name not in names}

    @property
    def csv(self) -> str:
        """The URL of the same incidents as a CSV file."""
        return reverse("admin:routing_minerincident_csv") + self.get_query_string()

    def charts(self) -> list[Chart]:
        """Return the charts of the listed incidents that are not voided. The charts cover at most 365 days."""
        chosen: dict[type, Any] = {type(spec): spec for spec in self.filter_specs}
        now, key = chosen[TimeFilter].now, chosen[TimeFilter].value()
        stretch = STRETCHES[LONGEST if key == ANY_TIME else key]
        counting = stretch.of(self.queryset.filter(voided_at=None), now)
        series = incident_counts.over_time(counting, stretch, now)
        shares = {"incidents": [sum(counts) for counts in series.values()]}
        title = f"Incidents by {stretch.bucket.unit} (UTC), {stretch.title}"
        return [
            Chart("incidents-over-time", title, "columns", stretch.labels(now), series),
            Chart("incidents-by-type", f"Incidents by type, {stretch.title}", "ring", list(series), shares),
            self._worst_miners(counting, f"Miners with the most incidents per executor, by class, {stretch.title}"),
        ]

    def _worst_miners(self, counting: Incidents, title: str) -> Chart:
        worst = incident_counts.worst_miners(counting, WORST)
        per_executor = {"incidents per executor": [round(ratio, 3) for ratio in worst.values()]}
        links = [miner_address(hotkey) for hotkey, _ in worst] if self.sees_miners else []
        return Chart("worst-miners", title, "bars", [" ".join(of) for of in worst], per_executor, links)


def look_decisions_up(listed: Sequence[MinerIncident], request: HttpRequest) -> None:
    """Set `decision` of each incident to the id of the decision that sent its job. One query for all incidents.

    It is None if no such decision is recorded, or if the user may not see decisions.
    """
    sent = incident_counts.decisions(listed) if request.user.has_perms(SEE_DECISIONS) else {}
    for incident in listed:
        incident.decision = sent.get((incident.job_uuid, incident.hotkey_ss58address))


@needs(*SEE_INCIDENTS)
def export(request: HttpRequest) -> HttpResponseBase:
    """Stream a CSV file with all incidents that the list has for these parameters."""
    try:
        listed = admin.site.get_model_admin(MinerIncident).get_changelist_instance(request)
    except IncorrectLookupParameters:
        return redirect(reverse("admin:routing_minerincident_changelist") + f"?{ERROR_FLAG}=1")
    text = incident_counts.as_csv(listed.queryset)
    name = f"incidents-{clock.now():%Y-%m-%d}.csv"
    return StreamingHttpResponse(
        # Over ASGI, Django sends nothing until a sync iterator has ended. Over WSGI, the same holds for an async one.
        _in_threads(text) if isinstance(request, ASGIRequest) else text,
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


async def _in_threads(text: Iterator[str]) -> AsyncIterator[str]:
    """Yield the parts of a text. A database thread reads each part."""

    def following() -> str | None:
        return next(text, None)

    while (part := await in_database_thread(following)()) is not None:
        yield part


def void_selected(request: HttpRequest, selected: Incidents) -> HttpResponseBase | None:
    """Ask for the reason and void the selected incidents. Return the page to show, or None for the list.

    Incidents whose id is higher than all ids that the page counted are left unchanged.
    """
    newest = request.POST.get("newest", "")
    if newest.isascii() and newest.isdigit():
        selected = selected.filter(pk__lte=min(int(newest), MAX_ID))
    counting = selected.filter(voided_at=None)
    found = groups(counting)
    count = sum(group.incidents for group in found)
    if not count:
        messages.warning(request, "All selected incidents are voided already. There is nothing to do.")
        return None
    form = VoidForm(request.POST if "confirmed" in request.POST else None)
    if form.is_valid():
        _void_all(request, counting, form.cleaned_data["reason"], count)
        return None
    return show(
        request,
        "routing/void_selected.html",
        "Void incidents",
        form=form,
        groups=[(MinerIncidentType(group.type).label, group) for group in found],
        count=count,
        voided=selected.count() - count,
        sample=counting.order_by("-timestamp", "-pk")[:SAMPLE],
        newest=counting.aggregate(Max("pk"))["pk__max"],
        chosen=request.POST.getlist(ACTION_CHECKBOX_NAME),
        select_across=request.POST.get("select_across", "0"),
    )


def _void_all(request: HttpRequest, counting: Incidents, reason: str, count: int) -> None:
    voided, user = 0, cast(AbstractBaseUser, request.user)
    try:
        for some in void_for(counting, user, reason=reason, now=clock.now()):
            voided += some
    except LockTimeout as error:
        messages.error(request, f"{voided} of {count} incidents are voided. Try again to void the others: {error}")
        return
    messages.success(request, f"{voided} of {count} incidents are voided and do not count any more.")


@needs(*VOID)
def void(request: HttpRequest, pk: int) -> HttpResponseBase:
    """Ask for the reason and void one incident."""
    form = VoidForm(request.POST or None)
    page = reverse("admin:routing_minerincident_change", args=[pk])
    try:
        incident = MinerIncident.objects.get(pk=pk)
        if incident.voided_at is not None:
            raise IncidentAlreadyVoided(pk, incident.voided_by, incident.voided_at)
        if form.is_valid():
            reason = form.cleaned_data["reason"]
            name = request.user.get_username()[:NAME_LENGTH]
            voided = void_incident(pk, by=name, reason=reason, now=clock.now())
            log([voided], cast(AbstractBaseUser, request.user), voided.void_reason)
            messages.success(request, f"{incident} is voided and does not count any more.")
            return redirect(page)
    except MinerIncident.DoesNotExist as error:
        raise Http404(str(error)) from error
    except IncidentAlreadyVoided as error:
        messages.error(request, str(error))
        return redirect(page)
    except LockTimeout as error:
        form.add_error(None, str(error))
    return show(request, "routing/void.html", "Void an incident", incident=incident, form=form)
