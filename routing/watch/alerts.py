"""What monitors watch: for each measure its unit, the limits of what is fine, and what to do beyond them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import NamedTuple

from django.core.exceptions import ImproperlyConfigured

from allowance.interface import CHECK_BLOCKS, CHECK_MANIFESTS, CHECK_NEURONS, CHECK_STAKE, MANY, lock_timeout
from routing.conf import conf


class Level(StrEnum):
    """How a measure stands. `INFO` is worth to know, and no reason to worry."""

    OK = "ok"
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"

    @property
    def exit_code(self) -> int:
        """What a monitor's check ends with, from 0 to 3."""
        return EXIT_CODES[self]

    @property
    def badness(self) -> int:
        """What to compare levels by. Not to know is worse than to know that all is well, and better than the rest."""
        return (Level.OK, Level.INFO, Level.UNKNOWN, Level.WARNING, Level.CRITICAL).index(self)


EXIT_CODES = {Level.OK: 0, Level.INFO: 0, Level.WARNING: 1, Level.CRITICAL: 2, Level.UNKNOWN: 3}


class Limits(NamedTuple):
    """A value above `warning` is worth a look, one above `critical` is harm being done. At a limit all is well.

    A value below 0 is critical: it is a time that is still to come, by our clock.
    """

    warning: float
    critical: float

    def level(self, value: float) -> Level:
        """Return how a value stands."""
        if value < 0 or value > self.critical:
            return Level.CRITICAL
        return Level.WARNING if value > self.warning else Level.OK


class Measure(NamedTuple):
    """What is measured in `unit`: seconds (s), percent (%) or a mere number (""); how nothing to measure stands."""

    unit: str
    advice: str
    without: Level = Level.OK


DRY_RUN = "manage.py dry_run_routing says what keeps the others behind."

MEASURES: Mapping[str, Measure] = {
    "block_age": Measure("s", "Check the clocks, that the chain follower runs, and what its log says.", Level.CRITICAL),
    "block_gaps": Measure("", CHECK_BLOCKS),
    "blocks_without_stake": Measure("", CHECK_STAKE),
    "missing_miners": Measure("%", CHECK_NEURONS),
    "manifest_age": Measure(
        "s", "Look whether the chain follower still asks the miners for their manifests.", Level.CRITICAL
    ),
    "silent_miners": Measure("%", CHECK_MANIFESTS),
    "collateral_filter": Measure(
        "",
        "Miners need no collateral to get a job. Set DYNAMIC_MINIMUM_COLLATERAL_AMOUNT_WEI, which is 1e16 in "
        "ComputeHorde, in the admin under Config.",
        Level.INFO,
    ),
    "refusals": Measure("%", "The refusals by reason, here too, say what to do."),
    "refused_for_allowance": Measure(
        "%", "Let callers ask for shorter jobs and release what they do not use, or wait for blocks."
    ),
    "refused_for_collateral": Measure(
        "%", "Lower DYNAMIC_MINIMUM_COLLATERAL_AMOUNT_WEI, or wait until miners post more."
    ),
    "refused_as_busy": Measure("%", "Look for jobs without a finished receipt, or send fewer at a time."),
    "refused_for_locks": Measure("%", "Look for a transaction that nobody ends, or set ALLOWANCE_LOCK_TIMEOUT higher."),
    "lapses": Measure("%", "Find the caller that neither spends nor undoes what it reserves."),
    "live_reservations": Measure(
        "", "Each pick reads them all. Find the caller that reserves more than its miners have executors."
    ),
    "lock_waits": Measure("%", f"Many jobs want the same few miners. {DRY_RUN}"),
    "longest_lock_wait": Measure("s", "Look for slow transactions that keep accounts locked."),
    "most_jobs": Measure("%", DRY_RUN),
    "most_seconds": Measure("%", DRY_RUN),
    "ledger_differences": Measure(
        "", "Run manage.py check_ledger, and again with --repair if it finds any.", Level.UNKNOWN
    ),
    "ledger_check_age": Measure("s", "Run manage.py check_ledger, best every day.", Level.UNKNOWN),
}

DAY = 24 * 3600.0


def default_limits() -> dict[str, Limits]:
    """Return the limits of every measure that hold unless ROUTING_STATUS_LIMITS has others."""
    ready, patience = conf.ROUTING_READY_MAX_BLOCK_AGE, lock_timeout()
    return {
        "block_age": Limits(ready / 2, ready),
        "block_gaps": Limits(0, MANY),
        "blocks_without_stake": Limits(0, MANY),
        "missing_miners": Limits(50, 90),
        "manifest_age": Limits(900, 3600),
        "silent_miners": Limits(50, 90),
        "collateral_filter": Limits(0, 0),
        "refusals": Limits(25, 50),
        "refused_for_allowance": Limits(20, 40),
        "refused_for_collateral": Limits(10, 30),
        "refused_as_busy": Limits(10, 30),
        "refused_for_locks": Limits(0, 1),
        "lapses": Limits(5, 20),
        "live_reservations": Limits(20_000, 100_000),
        "lock_waits": Limits(5, 25),
        "longest_lock_wait": Limits(patience / 2, patience),
        "most_jobs": Limits(50, 80),
        "most_seconds": Limits(50, 80),
        "ledger_differences": Limits(0, 0),
        "ledger_check_age": Limits(2 * DAY, 30 * DAY),
    }


def own_limits() -> dict[str, Limits]:
    """Return the limits that ROUTING_STATUS_LIMITS has. Raises ImproperlyConfigured if they are none."""
    own = conf.ROUTING_STATUS_LIMITS
    if not isinstance(own, Mapping):
        raise ImproperlyConfigured(f"ROUTING_STATUS_LIMITS is {own!r:.80}, not limits by name.")
    for name, pair in own.items():
        if name not in MEASURES:
            raise ImproperlyConfigured(f"ROUTING_STATUS_LIMITS: {name!r:.80} is none of {', '.join(MEASURES)}.")
        if not _are_limits(pair):
            raise ImproperlyConfigured(
                f"ROUTING_STATUS_LIMITS: {name} is {pair!r:.80}, not [warning, critical]: two numbers from 0 up, the "
                "second not less."
            )
    return {name: Limits(*pair) for name, pair in own.items()}


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

    Raises ImproperlyConfigured if ROUTING_STATUS_LIMITS is bad.
    """
    limits, findings = default_limits() | own_limits(), []
    for name, measure in MEASURES.items():
        value, fact = measured[name]
        level = measure.without if value is None else limits[name].level(value)
        sentence = fact if level is Level.OK else f"{fact} {measure.advice}"
        findings.append(Finding(name, value, measure.unit, level, limits[name], sentence))
    return tuple(findings)


def amount(value: float, unit: str) -> str:
    """Return a value with its unit; seconds as minutes, hours or days if they are many."""
    if unit == "s":
        for size, name in ((DAY, "d"), (3600, "h"), (60, "min")):
            if abs(value) >= 2 * size:
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
