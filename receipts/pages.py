"""The form in which an operator gives the reason for voiding evidence."""

from __future__ import annotations

from django import forms

from receipts.voiding import REASON_LENGTH


class VoidForm(forms.Form):
    reason = forms.CharField(max_length=REASON_LENGTH, widget=forms.Textarea(attrs={"rows": 3}))
