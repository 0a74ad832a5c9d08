"""Findings: what was measured, how the value compares with its limits, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar

from django.core.exceptions import ImproperlyConfigured

from routing.conf import conf

DAY = 24 * 3600.0

Seen = TypeVar("Seen")
"""The type of the data that all measures read."""


class Level(StrEnum):
    """The level of a measure. `INFO` is worth knowing, but is not a problem."""

    OK = "ok"
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"

    @property
    def exit_code(self) -> int:
        """The exit code of a check for a monitor, from 0 to 3."""
        return EXIT_CODES[self]

    @property
    def badness(self) -> int:
        """The rank of a level. UNKNOWN is worse than OK and INFO, and better than WARNING and CRITICAL."""
        return (Level.OK, Level.INFO, Level.UNKNOWN, Level.WARNING, Level.CRITICAL).index(self)


EXIT_CODES = {Level.OK: 0, Level.INFO: 0, Level.WARNING: 1, Level.CRITICAL: 2, Level.UNKNOWN: 3}


class Limits(NamedTuple):
    """The limits of a measure. A value above `warning` needs attention, and a value above `critical` means harm.

    A value equal to a limit does not exceed it. A value below 0 is critical: it is the age of something that lies in
    the future, by the clock of this host.
    """

    warning: float
    critical: float

    def level(self, value: float) -> Level:
        """Return the level of a value."""
        if value < 0 or value > self.critical:
            return Level.CRITICAL
        return Level.WARNING if value > self.warning else Level.OK


@dataclass(frozen=True, slots=True)
class Measure(Generic[Seen]):
    """A measurement in `unit`: seconds (s), percent (%), or a plain number ("").

    `take` returns the value and a sentence that states the fact. The value is None if there is nothing to measure.
    `limits` apply unless ROUTING_STATUS_LIMITS overrides them. `without` is the level of a missing value.
    """

    name: str
    unit: str
    advice: str
    limits: Callable[[], Limits]
    without: Level
    take: Callable[[Seen], tuple[float | None, str]]

    def find(self, seen: Seen, own: Mapping[str, Limits]) -> Finding:
        """Return the finding for the data in `seen`. The limits in `own` override those of the measure."""
        value, fact = self.take(seen)
        limits = own.get(self.name) or self.limits()
        level = self.without if value is None else limits.level(value)
        sentence = fact if level is Level.OK else f"{fact} {self.advice}"
        return Finding(self.name, value, self.unit, level, limits, sentence)


def own_limits(names: Collection[str]) -> dict[str, Limits]:
    """Return the limits that ROUTING_STATUS_LIMITS sets for measures of these names. Raises ImproperlyConfigured."""
    own = conf.ROUTING_STATUS_LIMITS
    if not isinstance(own, Mapping):
        raise ImproperlyConfigured(
            f"ROUTING_STATUS_LIMITS must be an object that maps names of measures to limits, not {own!r:.80}."
        )
    for name, pair in own.items():
        if name not in names:
            known = ", ".join(names)
            raise ImproperlyConfigured(
                f"ROUTING_STATUS_LIMITS: unknown measure {name!r:.80}. The measures are: {known}."
            )
        if not _are_limits(pair):
            raise ImproperlyConfigured(
                f"ROUTING_STATUS_LIMITS: {name} must be [warning, critical], not {pair!r:.80}. Both are numbers from 0 "
                "up, and critical is not less than warning."
            )
    return {name: Limits(*pair) for name, pair in own.items()}


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a measure. `sentence` states the fact and, unless the level is OK, the advice.

    `value` is None if there is nothing to measure.
    """

    name: str
    value: float | None
    unit: str
    level: Level
    limits: Limits
    sentence: str

    @property
    def title(self) -> str:
        """The name with spaces, for display."""
        return self.name.replace("_", " ")

    @property
    def amounts(self) -> tuple[str, str, str]:
        """The value, the warning limit and the critical limit, formatted for display."""
        value = "–" if self.value is None else amount(self.value, self.unit)
        return value, amount(self.limits.warning, self.unit), amount(self.limits.critical, self.unit)

    @property
    def data(self) -> dict[str, object]:
        """The finding as JSON values."""
        return {**asdict(self), "limits": self.limits._asdict()}


def amount(value: float, unit: str) -> str:
    """Return a value with its unit. Large numbers of seconds become minutes, hours or days."""
    if unit == "s":
        for size, name in ((DAY, "d"), (3600, "h"), (60, "min")):
            if abs(value) >= 2 * size:
                return f"{digits(value / size)} {name}"
    return f"{digits(value)} {unit}".strip()


def ago(age: float) -> str:
    """Return how long ago something was, for people."""
    return f"{lasting(age)} ago" if age >= 0 else f"{lasting(-age)} ahead of the site's clock"


def lasting(seconds: float) -> str:
    """Return a duration for people: in whole seconds from 1 s on."""
    return amount(seconds if seconds < 1 else round(seconds), "s")


def digits(value: float) -> str:
    """Return a number with three significant digits; from 100 on, rounded to a whole number."""
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _are_limits(pair: object) -> bool:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        return False
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in pair):
        return False
    warning, critical = pair
    return bool(0 <= warning <= critical < math.inf)
