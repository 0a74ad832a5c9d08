"""The incidents in the admin: evidence, to be read only."""

from __future__ import annotations

from uuid import UUID

from django.contrib import admin

from allowance.admin import ReadOnlyAdmin, link, to_the_second
from allowance.models import Miner, Reservation
from routing.models import IncidentVersion, MinerIncident


@admin.register(MinerIncident)
class MinerIncidentAdmin(ReadOnlyAdmin):
    """Found by job, or by the beginning of a hotkey."""

    exact = ("job_uuid", UUID)
    list_display = ("happened", "type", "executor_class", "miner", "job")
    list_filter = ("type", "executor_class", "timestamp")
    ordering = ("-timestamp",)
    search_fields = ("hotkey_ss58address__startswith",)
    fields = list_display

    @admin.display(description="time", ordering="timestamp")
    def happened(self, incident: MinerIncident) -> str:
        return to_the_second(incident.timestamp)

    @admin.display(description="miner", ordering="hotkey_ss58address")
    def miner(self, incident: MinerIncident) -> str:
        return link(incident.hotkey_ss58address, Miner, incident.hotkey_ss58address)

    @admin.display(description="job and its reservations")
    def job(self, incident: MinerIncident) -> str:
        return link(incident.job_uuid, Reservation, q=incident.job_uuid)


# There is nothing to read in it but that it is there: the class has had an incident.
admin.site.register(IncidentVersion, ReadOnlyAdmin)
