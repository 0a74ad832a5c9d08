"""The three kinds of receipts. A job has at most one of each. A receipt is evidence: it is voided, never changed."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, ClassVar, Self

from django.db import models
from django.db.models import Exists, OuterRef, Q

from allowance.plumbing.transactions import ChangedField, ChangedQuerySet
from receipts.types import HOTKEY_LENGTH, MAX_TTL
from receipts.voiding import Voidable

if TYPE_CHECKING:
    DateTimeField = models.DateTimeField[dt.datetime, dt.datetime]
else:
    DateTimeField = models.DateTimeField

LONGEST = dt.timedelta(seconds=MAX_TTL)
"""The longest time for which a receipt keeps an executor busy."""

SIGNATURE_LENGTH = 130
"""The length in characters: 0x, and 64 bytes in hexadecimal digits."""


class ValidUntilField(DateTimeField):
    """The time at which a receipt's ttl ends, computed when the row is saved. A column of its own can have an index."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "editable": False})

    def pre_save(self, model_instance: models.Model, add: bool) -> dt.datetime:
        receipt: Any = model_instance
        value: dt.datetime = receipt.timestamp + dt.timedelta(seconds=receipt.ttl)
        setattr(receipt, self.attname, value)
        return value


class ReceiptQuerySet(ChangedQuerySet):
    def counted(self) -> Self:
        """Return the receipts that count: a voided one does not."""
        return self.filter(voided_at=None)

    def of_the_job(self) -> Self:
        """Return the receipts that count, for the job of an outer query."""
        return self.counted().filter(job_uuid=OuterRef("job_uuid"))

    def valid(self, at: dt.datetime) -> Self:
        """Return the receipts that count and keep an executor busy at a time, both ends inclusive.

        A receipt keeps an executor busy for at most LONGEST, even if its row has a later end: rows can be loaded or
        changed without the checks.
        """
        return self.counted().filter(timestamp__lte=at, timestamp__gte=at - LONGEST, valid_until__gte=at)

    def unfinished(self, at: dt.datetime) -> Self:
        """Return the receipts of jobs without a finished receipt dated at or before a time."""
        return self.filter(~Exists(JobFinishedReceipt.objects.of_the_job().filter(timestamp__lte=at)))


class Receipt(Voidable):
    """The fields of all receipts: the job, its miner, its validator, and when the receipt was written.

    A receipt that came signed also has the exact text that both sides signed, and their signatures.
    """

    job_uuid = models.UUIDField(unique=True)
    miner_hotkey = models.CharField(max_length=HOTKEY_LENGTH)
    validator_hotkey = models.CharField(max_length=HOTKEY_LENGTH)
    timestamp = models.DateTimeField()
    signed = models.TextField("signed text", blank=True)
    validator_signature = models.CharField(max_length=SIGNATURE_LENGTH, blank=True)
    miner_signature = models.CharField(max_length=SIGNATURE_LENGTH, blank=True)
    changed = ChangedField()

    objects = ReceiptQuerySet.as_manager()

    class Meta:
        abstract = True
        constraints: ClassVar[tuple[models.BaseConstraint, ...]] = (
            *Voidable.Meta.constraints,
            models.CheckConstraint(
                condition=~Q(miner_hotkey="") & ~Q(validator_hotkey=""), name="%(class)s_names_both_sides"
            ),
        )

    def __str__(self) -> str:
        return f"{self._meta.verbose_name} of {self.job_uuid}"


class LastingReceipt(Receipt):
    """A receipt that keeps an executor busy until `valid_until`: for `ttl` seconds, or until it was ended."""

    ttl = models.PositiveIntegerField(help_text="seconds")
    valid_until = ValidUntilField()

    class Meta(Receipt.Meta):
        abstract = True
        constraints = (
            *Receipt.Meta.constraints,
            models.CheckConstraint(condition=Q(ttl__lte=MAX_TTL), name="%(class)s_ttl_is_bounded"),
        )

    @property
    def ended_at(self) -> dt.datetime | None:
        """The time at which the receipt was ended, or None if its ttl was not shortened."""
        return self.valid_until if self.valid_until < self.timestamp + dt.timedelta(seconds=self.ttl) else None


class StartedQuerySet(ReceiptQuerySet):
    def in_class(self, executor_class: object) -> Self:
        return self.filter(executor_class=executor_class)

    def running(self, executor_class: str, at: dt.datetime) -> Self:
        """Return the receipts of the jobs of a class that run at a time, according to their started receipts."""
        return self.in_class(executor_class).valid(at).unfinished(at)


class JobStartedReceipt(LastingReceipt):
    """The validator sent the job. It keeps an executor busy for `ttl` seconds, unless a finished receipt ends it."""

    executor_class = models.CharField(max_length=64)
    is_organic = models.BooleanField(default=True)

    objects = StartedQuerySet.as_manager()  # type: ignore[misc]

    class Meta(LastingReceipt.Meta):
        permissions = (("void_receipts", "Can void receipts"),)
        indexes = (
            models.Index(fields=("executor_class", "valid_until"), name="started_valid"),
            models.Index(fields=("changed",), name="started_changed"),
        )


class AcceptedQuerySet(ReceiptQuerySet):
    def running(self, executor_class: str, at: dt.datetime) -> Self:
        """Return the receipts of the jobs of a class that run at a time, but not according to their started receipts.

        An accepted receipt does not name the class. The class comes from the job's started receipt, even if that
        receipt is no longer valid.
        """
        started = JobStartedReceipt.objects.in_class(executor_class).of_the_job()
        return self.valid(at).unfinished(at).filter(Exists(started), ~Exists(started.valid(at)))


class JobAcceptedReceipt(LastingReceipt):
    """The miner accepted the job. The job keeps an executor busy until `ttl` seconds after this receipt."""

    time_accepted = models.DateTimeField()

    objects = AcceptedQuerySet.as_manager()  # type: ignore[misc]

    class Meta(LastingReceipt.Meta):
        indexes = (
            models.Index(fields=("valid_until",), name="accepted_valid"),
            models.Index(fields=("changed",), name="accepted_changed"),
        )


class JobFinishedReceipt(Receipt):
    """The job is over. `block_numbers` are the blocks of allowance that paid for it."""

    time_started = models.DateTimeField()
    time_took_us = models.PositiveBigIntegerField(help_text="microseconds")
    score_str = models.CharField(max_length=64)
    block_numbers: models.JSONField[list[int], list[int]] = models.JSONField(default=list)

    class Meta(Receipt.Meta):
        indexes = (models.Index(fields=("changed",), name="finished_changed"),)
