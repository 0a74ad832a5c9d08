"""What the router remembers: incidents, decisions, the jobs of its sockets, and the tokens that open them."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from django.db import models
from django.db.models import Q

from allowance.interface import HOTKEY_LENGTH, Reservation, WeiField, new_version
from receipts.interface import Voidable
from routing.types import MinerIncidentType, Outcome


class MinerIncident(Voidable):
    """A miner rejected or failed a job. One per miner and job; evidence, never changed.

    One that should not count is voided, once, by somebody and for a reason, which are kept: see `void_incident`.
    """

    type = models.CharField(max_length=32, choices=[(kind.value, kind.label) for kind in MinerIncidentType])
    timestamp = models.DateTimeField()
    hotkey_ss58address = models.CharField("hotkey", max_length=HOTKEY_LENGTH)
    job_uuid = models.UUIDField()
    executor_class = models.CharField(max_length=64)
    executors = models.PositiveIntegerField(default=0, help_text="Of the class, declared when it was reported.")

    decision: int | None = None
    """The id of the decision that sent the job there, on pages that looked it up."""

    class Meta:
        permissions = (
            ("route_jobs", "Can route jobs over the socket"),
            ("route_all_jobs", "Can speak of the jobs of all clients over the socket"),
            ("view_metrics", "Can see the metrics"),
            ("void_incidents", "Can void incidents"),
        )
        constraints = (
            models.UniqueConstraint(fields=("hotkey_ss58address", "job_uuid"), name="one_incident_per_miner_and_job"),
            models.CheckConstraint(
                condition=Q(type__in=[kind.value for kind in MinerIncidentType]), name="incident_has_a_known_type"
            ),
            models.CheckConstraint(condition=~Q(hotkey_ss58address=""), name="incident_names_a_miner"),
            *Voidable.Meta.constraints,
        )
        indexes = (
            models.Index(
                fields=("executor_class", "timestamp", "hotkey_ss58address"),
                name="incident_that_counts",
                condition=Q(voided_at=None),
            ),
            models.Index(fields=("-timestamp", "executor_class", "type"), name="incident_newest"),
            models.Index(fields=("job_uuid",), name="incident_of_job"),
            models.Index(fields=("-timestamp",), name="incident_voided", condition=Q(voided_at__isnull=False)),
        )

    def __str__(self) -> str:
        return f"{self.type} by {self.hotkey_ss58address}"


class Rejection(models.Model):
    """A miner would not take a job, and whether the receipts that it showed excuse it. One per miner and job.

    The first statement decides. Without an excuse there is an incident too. `jobs` are those whose receipts counted, of
    the `executors` that the miner had declared; the `sentence` tells why that is an excuse, or none.
    """

    miner = models.CharField("hotkey", max_length=HOTKEY_LENGTH)
    job_uuid = models.UUIDField()
    executor_class = models.CharField(max_length=64)
    timestamp = models.DateTimeField()
    excused = models.BooleanField()
    executors = models.PositiveIntegerField(null=True)
    jobs: models.JSONField[list[str], list[str]] = models.JSONField(default=list)
    sentence = models.TextField(blank=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("miner", "job_uuid"), name="one_rejection_per_miner_and_job"),
            models.CheckConstraint(condition=~Q(miner=""), name="rejection_names_a_miner"),
        )
        indexes = (
            models.Index(fields=("job_uuid",), name="rejection_of_job"),
            models.Index(fields=("-timestamp",), name="rejection_newest"),
        )

    def __str__(self) -> str:
        return f"Rejection of job {self.job_uuid} by {self.miner}"


class IncidentVersion(models.Model):
    """Drawn anew with every incident of a class, by which routers learn that what they counted is old."""

    executor_class = models.CharField(max_length=64, primary_key=True)
    version = models.BigIntegerField(default=new_version)

    def __str__(self) -> str:
        return f"version of the incidents of {self.executor_class}"


class DecisionRecord(models.Model):
    """What a pick decided, and why: written in the transaction that reserves, or alone if nothing was reserved.

    `candidates` has what each candidate was seen to have and its verdict: of the first refusals in a minute, and of a
    sample of the other decisions, so that these can be made again. See `routing.log.records`. A fixed route asks no
    miner, and has no `window_hours`. `reservation_id` is no foreign key: either row stays when the other is pruned.
    """

    job_uuid = models.UUIDField(null=True, help_text="A fixed route takes jobs whose uuid is none.")
    at = models.DateTimeField()
    executor_class = models.CharField(max_length=64)
    seconds = models.FloatField()
    block = models.PositiveBigIntegerField(null=True)
    outcome = models.CharField(max_length=32, choices=Outcome.choices)
    miner = models.CharField("hotkey", max_length=HOTKEY_LENGTH, blank=True)
    reservation_id = models.BigIntegerField("reservation", null=True)
    rank = models.PositiveIntegerField(null=True)
    score = models.FloatField(null=True)
    minimum_wei = WeiField(default=0, verbose_name="least collateral in Wei")
    window_hours = models.FloatField(null=True)
    asked = models.PositiveIntegerField("candidates", default=0)
    counts: models.JSONField[dict[str, int], dict[str, int]] = models.JSONField(
        default=dict, help_text="How many candidates failed at each gate."
    )
    microseconds = models.PositiveBigIntegerField(help_text="Until it was written.")
    waited_us = models.PositiveBigIntegerField("waited for locks", default=0, help_text="microseconds")
    candidates: models.JSONField[dict[str, Any] | None, dict[str, Any] | None] = models.JSONField(null=True)

    class Meta:
        verbose_name = "decision"
        constraints = (models.CheckConstraint(condition=~Q(outcome=""), name="decision_has_an_outcome"),)
        indexes = (
            models.Index(fields=("-at",), name="decision_newest"),
            models.Index(
                fields=("outcome", "executor_class", "-at"),
                name="decision_with_candidates",
                condition=Q(candidates__isnull=False),
            ),
            models.Index(fields=("job_uuid",), name="decision_of_job"),
            models.Index(fields=("miner", "-at"), name="decision_for_miner", condition=~Q(miner="")),
        )

    def __str__(self) -> str:
        return f"Decision on job {self.job_uuid}"


class RoutedJob(models.Model):
    """A job that came over a socket, and the one route that it has now; without a `reservation` that is a fixed one.

    The `claim` is drawn anew whenever the route is made or told again, and None once the route has ended: whoever made
    it and could not pass it on learns by it whether somebody else relies on it by now, and whoever is about to tell it
    again whether it is still there. The miners `tried` had the job and are not asked again by a retry.

    The `owner` is the client that sent the job first; see `routing.access.admission.Visitor`. Only the owner, and
    clients with the right to all jobs, can make statements about the job.
    """

    uuid = models.UUIDField(primary_key=True)
    owner = models.TextField(blank=True)
    executor_class = models.CharField(max_length=64)
    seconds = models.PositiveIntegerField()
    miner = models.CharField("hotkey", max_length=HOTKEY_LENGTH)
    reservation = models.ForeignKey(Reservation, on_delete=models.PROTECT, null=True)
    tried: models.JSONField[list[str], list[str]] = models.JSONField(default=list)
    claim = models.BigIntegerField(null=True, editable=False)
    routed_at = models.DateTimeField()

    class Meta:
        indexes = (models.Index(fields=("-routed_at",), name="job_newest"),)

    def __str__(self) -> str:
        return f"Job {self.uuid}"


class UsedSignature(models.Model):
    """A signature that a job was routed with. It does not sign the uuid, so it must not route another."""

    signatory = models.CharField(max_length=HOTKEY_LENGTH)
    signed_at_ns = models.BigIntegerField("signed at (UNIX time, ns)")
    job_uuid = models.UUIDField()

    class Meta:
        constraints = (models.UniqueConstraint(fields=("signatory", "signed_at_ns"), name="one_job_per_signature"),)

    def __str__(self) -> str:
        return f"Signature for job {self.job_uuid}"


class AccessToken(models.Model):
    """A token that was issued: for whom, for what, until when. The token itself is not stored; `id` is its `jti`."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    name = models.CharField(max_length=64)
    scopes: models.JSONField[list[str], list[str]] = models.JSONField()
    issued_at = models.DateTimeField(help_text="in whole seconds, as the token itself has it")
    expires_at = models.DateTimeField()
    stored_at = models.DateTimeField(help_text="exactly, which tells the newest of those of one second")
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = (
            models.CheckConstraint(condition=~Q(name=""), name="token_has_a_name"),
            models.CheckConstraint(condition=Q(expires_at__gt=models.F("issued_at")), name="token_lives"),
        )
        indexes = (models.Index(fields=("name",), name="token_of_name"),)

    def __str__(self) -> str:
        return f"Token of {self.name}"
