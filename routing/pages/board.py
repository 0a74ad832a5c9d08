"""The reliability board: a dry run as a page, with a form for what-if values."""

from __future__ import annotations

import datetime as dt
import re
from itertools import accumulate
from typing import NamedTuple
from urllib.parse import urlencode

from django import forms
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe

from allowance.interface import (
    MAX_JOB_RUN_TIME,
    BadInputError,
    ExecutorClass,
    WeiFormField,
    validation,
    wei_text,
)
from routing.decision import in_force
from routing.decision.dry import dry_run
from routing.decision.model import Decision, Gate, Policy, Remedies
from routing.dynamic import MAX_UNUSED_BLOCKS, MAX_WINDOW_HOURS
from routing.log import report
from routing.pages import SEE_MINER, SEE_MINERS, needs, show


class BoardForm(forms.Form):
    """A job and what-if values. They are in the URL, so that the page can be shared."""

    executor_class = forms.ChoiceField(choices=[(c.value, c.value) for c in ExecutorClass])
    seconds = forms.IntegerField(
        min_value=1, max_value=MAX_JOB_RUN_TIME, help_text=f"1 to {MAX_JOB_RUN_TIME}: the sum of the time limits."
    )
    minimum_wei = WeiFormField(label="Minimum collateral", required=False)
    hours = forms.FloatField(
        label="Window in hours",
        required=False,
        min_value=0,
        max_value=MAX_WINDOW_HOURS,
        widget=forms.NumberInput(attrs={"step": "any"}),
    )
    unused_blocks = forms.IntegerField(
        label="Oldest blocks that stay unused", required=False, min_value=0, max_value=MAX_UNUSED_BLOCKS
    )
    exclude = forms.CharField(
        label="Excluded miners",
        required=False,
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text="Hotkeys, separated by blanks or commas.",
    )

    def clean_exclude(self) -> frozenset[str]:
        names = [name for name in re.split(r"[\s,]+", self.cleaned_data["exclude"]) if name]
        try:
            return validation.hotkeys(names, "exclude")
        except BadInputError as error:
            raise forms.ValidationError(str(error)) from error


USUAL = {"executor_class": ExecutorClass.always_on__gpu_24gb.value, "seconds": "60"}
"""The initial values of the form."""


@needs(*SEE_MINERS)
@require_safe
def board_page(request: HttpRequest) -> HttpResponse:
    """Show all miners of a class as the router would rank them now; as JSON with `format=json`."""
    current = in_force.policy()
    form = BoardForm({**USUAL, **request.GET.dict()})
    form.fields["minimum_wei"].help_text = f"If empty: the setting in force, {wei_text(current.minimum_wei)}."
    form.fields["hours"].help_text = f"If empty: the setting in force, {current.window / dt.timedelta(hours=1):g}."
    form.fields["unused_blocks"].help_text = f"If empty: the setting in force, {current.unused_blocks}."
    decision = decision_for(form, current) if form.is_valid() else None
    if request.GET.get("format") == "json":
        if decision is None:
            return JsonResponse({"errors": form.errors.get_json_data()}, status=400)
        return JsonResponse(report.as_json(decision))
    context: dict[str, object] = {"form": form, "decision": decision}
    if decision is not None:
        asked = {name: value for name, value in request.GET.dict().items() if name in form.fields}
        context |= {
            "candidates": report.in_order(decision),
            "sentence": report.sentence(decision),
            "shares": shares(decision),
            "as_json": urlencode({**asked, "format": "json"}),
            "sees_miner": request.user.has_perms(SEE_MINER),
        }
    return show(request, "routing/board.html", "Reliability", **context)


def decision_for(form: BoardForm, current: Policy) -> Decision:
    """Return the dry run that a valid form asks for."""
    asked = form.cleaned_data
    policy = in_force.what_if(current, asked["minimum_wei"], asked["hours"], asked["unused_blocks"])
    remedies = Remedies(excluded=f"name fewer under “{form['exclude'].label}”")
    if asked["minimum_wei"] is not None:
        remedies = remedies._replace(collateral=f"lower “{form['minimum_wei'].label}”")
    return dry_run(
        asked["executor_class"],
        asked["seconds"],
        policy=policy,
        exclude=asked["exclude"],
        remedies=remedies,
    )


class Share(NamedTuple):
    """The number of miners rejected at a gate (None: eligible), and the number of miners to their left in the bar."""

    gate: Gate | None
    miners: int
    x: int


def shares(decision: Decision) -> list[Share]:
    """Return the eligible miners, and those rejected at each gate, as parts of one bar."""
    fit = sum(c.verdict.gate is None for c in decision.candidates)
    counts = [(gate, n) for gate, n in ((None, fit), *decision.counts.items()) if n]
    ends = accumulate(n for _, n in counts)
    return [Share(gate, n, end - n) for (gate, n), end in zip(counts, ends, strict=True)]
