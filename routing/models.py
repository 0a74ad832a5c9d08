"""The models of routing: incidents, rejections, decisions, jobs of the sockets, used signatures, access tokens."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from django.db import models
from django.db.models import Q

from allowance.interface import HOTKEY_LENGTH, Reservation, WeiField, new_version
from receipts.interface import Voidable
from routing.types import MinerIncidentType, Outcome


class MinerIncident(Voidable):
    """A miner rejected or failed a job. There is one incident per miner and job, and it is only changed to void it.

    An incident that should not count is voided, once. The name of the person and the reason are stored: see
    `void_incident`.
    """

    type = models.CharField(max_length=32, choices=[(kind.value, kind.label) for kind in MinerIncidentType])
    timestamp = models.DateTimeField()
    hotkey_ss58address = models.CharField("hotkey", max_length=HOTKEY_LENGTH)
    job_uuid = models.UUIDField()
    executor_class = models.CharField(max_length=64)
    executors = models.PositiveIntegerField(
        default=0, help_text="The executors of the class that the miner declared when the incident was reported."
    )

    decision: int | None = None
    """The id of the decision that routed the job to the miner. Only pages that look it up set it."""

    class Meta:
        permissions = (
            ("route_jobs", "Can route jobs over the socket"),
            ("route_all_jobs", "Can make statements about the jobs of all clients over the socket"),
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
    """A miner rejected a job, and the receipts that it showed excuse this or not. There is one per miner and job.

    The first statement decides. A rejection without an excuse is also recorded as an incident. `jobs` are the uuids of
    the jobs whose receipts counted, `executors` is the number that the miner had declared, and `sentence` says why this
    is an excuse or not.
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
    """The version of the incidents of a class. It changes when an incident is reported, voided or deleted.

    Routers compare it to learn whether their cached counts are up to date.
    """

    executor_class = models.CharField(max_length=64, primary_key=True)
    version = models.BigIntegerField(default=new_version)

    def __str__(self) -> str:
        return f"version of the incidents of {self.executor_class}"


class DecisionRecord(models.Model):
    """What a pick decided, and why. It is written in the transaction that reserves, or alone if nothing is reserved.

    `candidates` has the input and the verdict of each candidate, so that the decision can be replayed. It is stored for
    the first refusals in a minute and for a sample of the other decisions: see `routing.log.records`. A fixed route
    asks no miner and has no `window_hours`. `reservation_id` is not a foreign key, because each of the two rows can be
    pruned before the other.
    """

    job_uuid = models.UUIDField(null=True, help_text="Empty for a job on a fixed route whose uuid is not valid.")
    at = models.DateTimeField()
    executor_class = models.CharField(max_length=64)
    seconds = models.FloatField()
    block = models.PositiveBigIntegerField(null=True)
    outcome = models.CharField(max_length=32, choices=Outcome.choices)
    miner = models.CharField("hotkey", max_length=HOTKEY_LENGTH, blank=True)
    reservation_id = models.BigIntegerField("reservation", null=True)
    rank = models.PositiveIntegerField(null=True)
    score = models.FloatField(null=True)
    minimum_wei = WeiField(default=0, verbose_name="minimum collateral in Wei")
    window_hours = models.FloatField(null=True)
    unused_blocks = models.PositiveIntegerField(
        default=0, help_text="The number of the oldest blocks of allowance that were left unused."
    )
    asked = models.PositiveIntegerField("candidates", default=0)
    counts: models.JSONField[dict[str, int], dict[str, int]] = models.JSONField(
        default=dict, help_text="The number of candidates that failed at each gate."
    )
    microseconds = models.PositiveBigIntegerField(help_text="How long the pick took until it stored its decision.")
    waited_us = models.PositiveBigIntegerField("waited for locks", default=0, help_text="In microseconds.")
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
    """A job that came over a socket, and its current route. A route without a `reservation` is a fixed route.

    `claim` is a random number. It changes whenever the route is made or sent again, and is None once the route has
    ended. A caller that made the route but could not deliver it compares the claim: if it has changed, another caller
    relies on the route. A caller that is about to send the route again compares it to learn whether the route still
    exists. `tried` are the hotkeys of miners that had the job; a retry does not ask them again. `started` is whether a
    client has reported that the miner of the current route started or accepted the job.

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
    started = models.BooleanField(default=False)
    routed_at = models.DateTimeField()

    class Meta:
        indexes = (models.Index(fields=("-routed_at",), name="job_newest"),)

    def __str__(self) -> str:
        return f"Job {self.uuid}"


class UsedSignature(models.Model):
    """A signature with which a job was routed. It does not cover the uuid, so it must not route another job."""

    signatory = models.CharField(max_length=HOTKEY_LENGTH)
    signed_at_ns = models.BigIntegerField("signed at (UNIX time, ns)")
    job_uuid = models.UUIDField()

    class Meta:
        constraints = (models.UniqueConstraint(fields=("signatory", "signed_at_ns"), name="one_job_per_signature"),)

    def __str__(self) -> str:
        return f"Signature for job {self.job_uuid}"


class AccessToken(models.Model):
    """An issued token: its holder's name, its scopes and its times. The token is not stored; `id` is its `jti`."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    name = models.CharField(max_length=64)
    scopes: models.JSONField[list[str], list[str]] = models.JSONField()
    issued_at = models.DateTimeField(help_text="In whole seconds, as in the token itself.")
    expires_at = models.DateTimeField()
    stored_at = models.DateTimeField(help_text="The exact time. It orders the tokens issued in the same second.")
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = (
            models.CheckConstraint(condition=~Q(name=""), name="token_has_a_name"),
            models.CheckConstraint(condition=Q(expires_at__gt=models.F("issued_at")), name="token_lives"),
        )
        indexes = (models.Index(fields=("name",), name="token_of_name"),)

    def __str__(self) -> str:
        return f"Token of {self.name}"
