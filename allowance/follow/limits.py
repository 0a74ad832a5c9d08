"""The limits of executors per miner and class, as text in the form that ComputeHorde's validators use."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from django import forms

from allowance.types import MAX_EXECUTORS, BadInputError

CLASS = re.compile(r"[\w.-]+", re.ASCII)

HOW = 'Write them as always_on.llm.a6000=2,always_on.test=1, or as JSON: {"always_on.llm.a6000": 2}.'


def limits_text(limits: Mapping[str, int]) -> str:
    """Return limits as text, such as always_on.llm.a6000=2,always_on.test=1."""
    return ",".join(f"{name}={count}" for name, count in limits.items())


def parse_limits(text: str) -> dict[str, int]:
    """Return the limits in a text, by class. A class that it does not name has no limit.

    The text has the form of `limits_text`, or is a JSON object. A class may be unknown here: a subnet can introduce
    another one before this router knows it. Raises BadInputError.
    """
    limits: dict[str, int] = {}
    for name, count in _pairs(text.strip()):
        if not CLASS.fullmatch(name):
            raise BadInputError(f"{name!r:.80} is not the name of an executor class. {HOW}")
        if name in limits:
            raise BadInputError(f"The limit of {name:.80} is given twice. {HOW}")
        if not re.fullmatch(r"[0-9]{1,9}", count) or int(count) > MAX_EXECUTORS:
            raise BadInputError(
                f"The limit of {name:.80} is a whole number of 0 to {MAX_EXECUTORS}, not {count!r:.80}. {HOW}"
            )
        limits[name] = int(count)
    return limits


def _pairs(text: str) -> Iterable[tuple[str, str]]:
    if text.startswith("{"):
        try:
            pairs: list[tuple[str, Any]] = json.loads(text, object_pairs_hook=list)
        except (ValueError, RecursionError) as error:
            raise BadInputError(f"{text!r:.80} is not valid JSON: {error}. {HOW}") from error
        return [(name, json.dumps(count)) for name, count in pairs]
    parts = [part.partition("=") for part in text.split(",")] if text else []
    return [(name.strip(), count.strip()) for name, _, count in parts]


class LimitsFormField(forms.CharField):
    """A form field for limits: a text that `parse_limits` accepts, in the form of `limits_text`. It may be empty."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"help_text": HOW, "required": False, **kwargs})

    def to_python(self, value: Any) -> Any:
        try:
            return limits_text(parse_limits(super().to_python(value) or ""))
        except BadInputError as error:
            raise forms.ValidationError(str(error)) from error
