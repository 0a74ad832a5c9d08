"""What the router remembers: the incidents that lower a miner's reliability."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from allowance.models import new_version
from allowance.types import HOTKEY_LENGTH
from routing.types import MinerIncidentType


class MinerIncident(models.Model):
    """A miner rejected or failed a job. One per miner and job; evidence, never changed."""

    type = models.CharField(max_length=32, choices=MinerIncidentType.choices)
    timestamp = models.DateTimeField()
    hotkey_ss58address = models.CharField("hotkey", max_length=HOTKEY_LENGTH)
    job_uuid = models.UUIDField()
    executor_class = models.CharField(max_length=64)

    class Meta:
        permissions = (("route_jobs", "Can route jobs over the socket"),)
        constraints = (
            models.UniqueConstraint(fields=("hotkey_ss58address", "job_uuid"), name="one_incident_per_miner_and_job"),
            models.CheckConstraint(condition=Q(type__in=MinerIncidentType.values), name="incident_has_a_known_type"),
            models.CheckConstraint(condition=~Q(hotkey_ss58address=""), name="incident_names_a_miner"),
        )
        indexes = (
            models.Index(fields=("executor_class", "timestamp", "hotkey_ss58address"), name="incident_of_class"),
            models.Index(fields=("-timestamp",), name="incident_newest"),
            models.Index(fields=("job_uuid",), name="incident_of_job"),
        )

    def __str__(self) -> str:
        return f"{self.type} by {self.hotkey_ss58address}"


class IncidentVersion(models.Model):
    """Drawn anew with every incident of a class, by which routers learn that what they counted is old."""

    executor_class = models.CharField(max_length=64, primary_key=True)
    version = models.BigIntegerField(default=new_version)

    def __str__(self) -> str:
        return f"version of the incidents of {self.executor_class}"
