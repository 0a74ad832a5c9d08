"""The dynamic settings from a document that the operators of a subnet maintain: a loop of the chain follower.

ComputeHorde's validators take theirs from the repository of the subnet in the same way.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Callable, Mapping
from http.client import HTTPException
from typing import Any
from urllib.error import URLError

from constance import config
from constance.forms import ConstanceForm
from constance.utils import get_values, get_values_for_keys
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.forms import ValidationError
from pydantic import AwareDatetime, BaseModel
from pydantic import ValidationError as BadEntry

from allowance.interface import SourceError, clock
from allowance.plumbing.calls import Calls
from allowance.plumbing.database import alias
from allowance.plumbing.threads import in_daemon_thread, in_database_thread
from routing.conf import conf
from routing.dynamic import CONSTANCE_SETTINGS
from routing.requests import first_problem
from routing.upkeep.fetching import DEADLINE, check_location, fetch, shown

logger = logging.getLogger(__name__)

EVERY = 300.0
"""Seconds between two readings of the document."""

NAMED = 200
"""The maximum number of unknown settings that are named."""


class DocumentError(SourceError):
    """The document with the dynamic settings can't be read or used. No setting is changed."""

    wait = 60.0

    def __init__(self, location: str, error: Exception) -> None:
        self.location, self.problem = location, _sentence(error)
        super().__init__(
            f"The document {location} can't be used, so no dynamic setting is changed: {self.problem} "
            "Correct the document, or ROUTING_DYNAMIC_FROM."
        )


def _sentence(error: Exception) -> str:
    """Return the text of an error as one line. A server may have written a part of it."""
    said = str(error.reason if type(error) is URLError else error) or type(error).__name__
    text = "".join(letter if letter.isprintable() else " " for letter in said).strip()
    return text if text.endswith(".") else f"{text}."


class Item(BaseModel):
    """A value in the format of ComputeHorde, and the time from which it is in force (None: always)."""

    value: Any
    effective_from: AwareDatetime | None = None


class Entry(BaseModel):
    """A setting in the format of ComputeHorde. Of the items that are in force, the last one counts."""

    items: list[Item]


Changes = dict[str, tuple[Any, Any]]
"""The old and the new value of settings, by name."""


def texts(content: bytes, now: dt.datetime) -> tuple[dict[str, str], list[str]]:
    """Return the values of our dynamic settings in a document, as text, and the names of the others, as literals.

    The document is a JSON object. A value stands in it as it is, or in the format of ComputeHorde. A setting of which
    no item is in force at `now` is left out. Raises ValueError.
    """
    try:
        document = json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")
    found: dict[str, str] = {}
    for name in document.keys() & CONSTANCE_SETTINGS.keys():
        value = document[name]
        if isinstance(value, dict) and "items" in value:
            items = _entry(name, value).items
            values = [i.value for i in items if i.effective_from is None or i.effective_from <= now]
            if not values:
                continue
            value = values[-1]
        found[name] = value if isinstance(value, str) else json.dumps(value)
    others = sorted(document.keys() - CONSTANCE_SETTINGS.keys())
    return found, [f"{name!r:.80}" for name in others[:NAMED]]


def _entry(name: str, value: Any) -> Entry:
    try:
        return Entry.model_validate(value)
    except BadEntry as error:
        raise ValueError(f"{name}.{first_problem(error)}") from error


def changes(values: Mapping[str, str]) -> Changes:
    """Return which settings differ from the stored ones. Raises ValueError for a value that the admin would refuse."""
    current, problems, found = get_values_for_keys([*values]), [], {}
    fields = ConstanceForm(initial=get_values()).fields
    for name, text in sorted(values.items()):
        try:
            value = fields[name].clean(text)
        except ValidationError as error:
            problems.append(f"{name} is {text!r:.80}: {' '.join(error.messages)}")
        else:
            if value != current[name]:
                found[name] = current[name], value
    if problems:
        raise ValueError(" ".join(problems))
    return found


def store(changed: Changes) -> None:
    """Store the new values through constance, all or none. Raises RuntimeError if constance did not store them."""
    with transaction.atomic(alias()):
        for name, (_, value) in changed.items():
            setattr(config, name, value)
    # Constance hides errors of the database.
    stored = get_values_for_keys([*changed])
    if lost := sorted(name for name, (_, value) in changed.items() if stored[name] != value):
        raise RuntimeError(f"Constance did not store {', '.join(lost)}.")


def silent(*_: object, **__: object) -> None:
    """Show nothing."""


class DocumentLoop:
    """The loop that stores the dynamic settings of a document. `location` is a path, or a URL of http or https."""

    name = "settings"

    def __init__(self, location: str, tell: Callable[..., None] = silent) -> None:
        self.location, self.adapter, self.tell = location, shown(location), tell
        self.calls = Calls(DEADLINE)
        self.detail: dict[str, Any] = {"changed": {}, "changed_at": None, "ignored": []}

    async def step(self) -> float:
        """Read the document, and store what has changed. Raises DocumentError."""
        try:
            content = await self.calls.make("read", in_daemon_thread(lambda: fetch(self.location)))
        except (OSError, HTTPException, ValueError) as error:
            raise DocumentError(self.adapter, error) from error
        for name, (old, new) in (await in_database_thread(self.apply)(content)).items():
            self.tell("settings", name=name, old=str(old), new=str(new))
        return EVERY

    def apply(self, content: bytes) -> Changes:
        """Store and log the settings of a document that differ from the stored ones, and return them."""
        now = clock.now()
        try:
            values, ignored = texts(content, now)
            changed = changes(values)
        except ValueError as error:
            raise DocumentError(self.adapter, error) from error
        if ignored and ignored != self.detail["ignored"]:
            logger.info("These settings of %s are not used: %s", self.adapter, ", ".join(ignored))
        self.detail["ignored"] = ignored
        if changed:
            store(changed)
            told = {name: [str(old), str(new)] for name, (old, new) in changed.items()}
            self.detail |= {"changed": told, "changed_at": now.isoformat()}
        for name, (old, new) in changed.items():
            logger.warning("%s changed from %r to %r, as %s says", name, old, new, self.adapter)
        return changed

    async def close(self) -> None:
        """Do nothing: a reading keeps no connection."""


def document_loop(tell: Callable[..., None] = silent) -> DocumentLoop | None:
    """Return the loop for ROUTING_DYNAMIC_FROM, or None if it is empty. Raises ImproperlyConfigured."""
    location = str(conf.ROUTING_DYNAMIC_FROM)
    try:
        check_location(location)
    except ValueError as error:
        raise ImproperlyConfigured(f"ROUTING_DYNAMIC_FROM: {error}") from error
    return DocumentLoop(location, tell) if location else None
