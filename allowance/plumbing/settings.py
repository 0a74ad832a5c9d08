"""Settings. One table has the name, default, bounds and meaning of each. Checks and documents are made from it."""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured


class Setting(NamedTuple):
    """A setting of a site. Its type is the type of its default. `least` and `most` bound a number."""

    name: str
    default: Any
    help: str
    unit: str = ""
    least: float = -math.inf
    most: float = math.inf

    @property
    def bounds(self) -> str:
        """The values that a number may have, as text."""
        kind = "a whole number" if isinstance(self.default, int) else "a number"
        return f"{kind} of at least {self.least:g}" + ("" if self.most == math.inf else f" and at most {self.most:g}")

    def is_good(self, value: Any) -> bool:
        """Return whether a value is a number within the bounds. A setting without bounds has a check of its own."""
        if self.least == -math.inf:
            return True
        kinds = int if isinstance(self.default, int) else int | float
        is_number = isinstance(value, kinds) and not isinstance(value, bool)
        return is_number and self.least <= value <= self.most and value < math.inf

    def read(self, env: Any) -> Any:
        """Return the value in the environment, parsed by django-environ. Raises ImproperlyConfigured for bad JSON."""
        if isinstance(self.default, dict):
            try:
                return json.loads(env.str(self.name, default="") or json.dumps(self.default))
            except ValueError as error:
                raise ImproperlyConfigured(f"{self.name} is not valid JSON: {error}. {self.help}") from error
        read = {int: env.int, float: env.float, str: env.str, list: env.list}[type(self.default)]
        return read(self.name, default=self.default)


class Settings:
    """The settings of a table, as attributes. Each access reads the value from Django's settings."""

    def __init__(self, *table: Setting) -> None:
        self.table = {setting.name: setting for setting in table}

    def __getattr__(self, name: str) -> Any:
        try:
            return getattr(settings, name, self.table[name].default)
        except KeyError:
            raise AttributeError(f"There is no setting {name}.") from None


conf = Settings(
    Setting(
        "ALLOWANCE_THREADS",
        8,
        "The number of threads in which the coroutines of a process use the database. Each thread has a connection.",
        least=1,
    ),
    Setting(
        "ALLOWANCE_LOCK_TIMEOUT",
        5.0,
        "On PostgreSQL, the maximum wait for a row that another transaction has locked. It also limits the total wait "
        "of a pick for all its candidates.",
        "s",
        least=0.001,
    ),
)
