"""Void evidence, so that it no longer counts, with a name, a reason and the time.

Incidents use the same columns and the same form.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, ClassVar, TypeVar

from django import forms
from django.db import models
from django.db.models import Q

from receipts.types import BadReceiptError, ReceiptAlreadyVoided

NAME_LENGTH, REASON_LENGTH = 150, 500


class Voidable(models.Model):
    """A row that stays stored when it is voided. It is voided once, with a name and a reason."""

    voided_at = models.DateTimeField(null=True, blank=True)
    voided_by = models.CharField(max_length=NAME_LENGTH, blank=True)
    void_reason = models.CharField(max_length=REASON_LENGTH, blank=True)

    class Meta:
        abstract = True
        constraints: ClassVar[tuple[models.BaseConstraint, ...]] = (
            models.CheckConstraint(
                condition=Q(voided_at=None, voided_by="", void_reason="")
                | (Q(voided_at__isnull=False) & ~Q(voided_by="") & ~Q(void_reason="")),
                name="%(class)s_is_voided_by_somebody_for_a_reason",
            ),
        )


class VoidForm(forms.Form):
    """The form in which an operator gives the reason for voiding evidence."""

    reason = forms.CharField(max_length=REASON_LENGTH, widget=forms.Textarea(attrs={"rows": 3}))


Row = TypeVar("Row", bound=Voidable)


def words(value: object, what: str, longest: int) -> str:
    """Return `value` stripped. Raises BadReceiptError unless it has 1 to `longest` characters and no NUL."""
    text = value.strip() if isinstance(value, str) else ""
    if not 0 < len(text) <= longest or "\0" in text:
        raise BadReceiptError(f"Voiding needs {what} of 1 to {longest} characters, not {value!r:.80}.")
    return text


def void_by(by: object, reason: object, now: object) -> dict[str, Any]:
    """Return the column values that void a row. Raises BadReceiptError for an invalid name, reason or time."""
    if not isinstance(now, dt.datetime) or now.utcoffset() is None or not 1970 <= now.year < 3000:
        raise BadReceiptError(
            f"Voiding needs a datetime with a time zone and a year from 1970 to 2999, not {now!r:.80}."
        )
    return {
        "voided_by": words(by, "a name", NAME_LENGTH),
        "void_reason": words(reason, "a reason", REASON_LENGTH),
        "voided_at": now,
    }


def void_receipt(receipt: Row, *, by: str | None, reason: str | None, now: dt.datetime) -> Row:
    """Void a receipt permanently, and return the stored row. Every router sees this at its next pick.

    `by` names the person. A voided receipt is kept, but does not count. Raises BadReceiptError without a name, a reason
    or a plausible time with a time zone, ReceiptAlreadyVoided if it was voided before, and DoesNotExist if the receipt
    no longer exists.
    """
    void = void_by(by, reason, now)
    rows = type(receipt)._default_manager.filter(pk=receipt.pk)
    is_first = rows.filter(voided_at=None).update(**void)
    stored: Row = rows.get()
    if not is_first and stored.voided_at is not None:
        raise ReceiptAlreadyVoided(stored, stored.voided_by, stored.voided_at)
    return stored
