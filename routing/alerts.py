"""What monitors watch: for each measure its unit, the limits of what is fine, and what to do beyond them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import NamedTuple

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from allowance.locks import lock_timeout
from routing.health import max_block_age


class Level(StrEnum):
    """How a measure stands, in the order of the exit codes that monitors know, 0 to 3."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"

    @property
    def exit_code(self) -> int:
        """What a monitor's check ends with."""
        return list(Level).index(self)

    @property
    def badness(self) -> int:
        """What to compare levels by. Not to know is worse than to know that all is well, and better than the rest."""
        return (Level.OK, Level.UNKNOWN, Level.WARNING, Level.CRITICAL).index(self)


class Limits(NamedTuple):
    """A value above `warning` is worth a look, one above `critical` is harm being done. At a limit all is well."""

    warning: float
    critical: float

    def level(self, value: float) -> Level:
        """Return how a value stands."""
        if value > self.critical:
            return Level.CRITICAL
        return Level.WARNING if value > self.warning else Level.OK


class Measure(NamedTuple):
    """What is measured in `unit`: seconds (s), percent (%) or a mere number (""); how nothing to measure stands."""

    unit: str
    limits: Limits
    advice: str
    without: Level = Level.OK


DAY = 24 * 3600.0
DRY_RUN = "manage.py dry_run_routing says what keeps the others behind."


def measures() -> dict[str, Measure]:
    """Return all there is to measure, with the limits that hold unless STATUS_LIMITS has others."""
    ready, patience = max_block_age(), lock_timeout()
    return {
        "block_age": Measure(
            "s",
            Limits(ready / 2, ready),
            "Look whether the chain follower runs, and at what its log says.",
            without=Level.CRITICAL,
        ),
        "manifest_age": Measure(
            "s",
            Limits(900, 3600),
            "Look whether the chain follower still asks the miners for their manifests.",
            without=Level.CRITICAL,
        ),
        "refusals": Measure("%", Limits(25, 50), "The refusals by reason, here too, say what to do."),
        "refused_for_allowance": Measure(
            "%",
            Limits(20, 40),
            "Let callers ask for shorter jobs and release what they do not use, or wait for blocks.",
        ),
        "refused_for_collateral": Measure(
            "%", Limits(10, 30), "Lower DYNAMIC_MINIMUM_COLLATERAL_AMOUNT_WEI, or wait until miners post more."
        ),
        "refused_as_busy": Measure(
            "%", Limits(10, 30), "Look for jobs without a finished receipt, or send fewer at a time."
        ),
        "refused_for_locks": Measure(
            "%", Limits(0, 1), "Look for a transaction that nobody ends, or set ALLOWANCE_LOCK_TIMEOUT higher."
        ),
        "lapses": Measure("%", Limits(5, 20), "Find the caller that neither spends nor undoes what it reserves."),
        "lock_waits": Measure("%", Limits(5, 25), f"Many jobs want the same few miners. {DRY_RUN}"),
        "longest_lock_wait": Measure(
            "s", Limits(patience / 2, patience), "Look for slow transactions that keep accounts locked."
        ),
        "most_jobs": Measure("%", Limits(50, 80), DRY_RUN),
        "most_seconds": Measure("%", Limits(50, 80), DRY_RUN),
        "ledger_differences": Measure(
            "",
            Limits(0, 0),
            "Run manage.py check_ledger, and again with --repair if it finds any.",
            without=Level.UNKNOWN,
        ),
        "ledger_check_age": Measure(
            "s", Limits(2 * DAY, 30 * DAY), "Run manage.py check_ledger, best every day.", without=Level.UNKNOWN
        ),
    }


@dataclass(frozen=True, slots=True)
class Finding:
    """What a measure says now: its `value`, None if there is nothing to measure, and in words what to do about it."""

    name: str
    value: float | None
    unit: str
    level: Level
    limits: Limits
    sentence: str

    @property
    def title(self) -> str:
        """The name as people write it."""
        return self.name.replace("_", " ")

    @property
    def amounts(self) -> tuple[str, str, str]:
        """The value, and the limits of a warning and of what is critical, as people read them."""
        value = "–" if self.value is None else amount(self.value, self.unit)
        return value, amount(self.limits.warning, self.unit), amount(self.limits.critical, self.unit)

    @property
    def data(self) -> dict[str, object]:
        """The finding as JSON values."""
        return {**asdict(self), "limits": self.limits._asdict()}


def judge(measured: Mapping[str, tuple[float | None, str]]) -> tuple[Finding, ...]:
    """Return the findings for what was measured: by name its value, None if there is none, and the fact in words.

    Raises ImproperlyConfigured if STATUS_LIMITS is bad.
    """
    limits, findings = limits_in_force(), []
    for name, measure in measures().items():
        value, fact = measured[name]
        level = measure.without if value is None else limits[name].level(value)
        sentence = fact if level is Level.OK else f"{fact} {measure.advice}"
        findings.append(Finding(name, value, measure.unit, level, limits[name], sentence))
    return tuple(findings)


def limits_in_force() -> dict[str, Limits]:
    """Return the limits of every measure by its name. Raises ImproperlyConfigured if STATUS_LIMITS is bad."""
    limits = {name: measure.limits for name, measure in measures().items()}
    own = getattr(settings, "STATUS_LIMITS", {})
    if not isinstance(own, Mapping):
        raise ImproperlyConfigured(f"STATUS_LIMITS is {own!r:.80}, not limits by name.")
    for name, pair in own.items():
        if name not in limits:
            raise ImproperlyConfigured(f"STATUS_LIMITS: {name!r:.80} is none of {', '.join(limits)}.")
        if not _are_limits(pair):
            raise ImproperlyConfigured(
                f"STATUS_LIMITS: {name} is {pair!r:.80}, not [warning, critical], numbers from 0 up in this order."
            )
        limits[name] = Limits(*pair)
    return limits


def amount(value: float, unit: str) -> str:
    """Return a value with its unit; seconds as minutes, hours or days if they are many."""
    if unit == "s":
        for size, name in ((DAY, "d"), (3600, "h"), (60, "min")):
            if value >= 2 * size:
                return f"{digits(value / size)} {name}"
    return f"{digits(value)} {unit}".strip()


def digits(value: float) -> str:
    """Return a number with three digits, or all that it has before the point."""
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _are_limits(pair: object) -> bool:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        return False
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in pair):
        return False
    warning, critical = pair
    return bool(0 <= warning <= critical < math.inf)
