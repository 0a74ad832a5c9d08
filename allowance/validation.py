"""Checks of the ledger's input. An invalid value raises BadInputError, which quotes it. `seconds` adds JobTooLong."""

from __future__ import annotations

import datetime as dt
import ipaddress
import math
import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from decimal import Decimal
from numbers import Integral, Real
from typing import TypeGuard
from uuid import UUID

from allowance.types import (
    HOTKEY_LENGTH,
    MAX_BLOCK_NUMBER,
    MAX_EXECUTORS,
    MAX_JOB_RUN_TIME,
    MAX_WEI,
    BadInputError,
    ExecutorClass,
    JobTooLong,
    Miner,
)

HOTKEY = rf"\S{{1,{HOTKEY_LENGTH}}}"

MAX_PORT = 65535
IP_VERSIONS = (0, 4, 6)

MAX_HOST_NAME = 253
HOST_NAME = r"(?!(.*\.)?(0[xX][0-9a-fA-F]*|[0-9]+)\.?$)([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.|$))+"
"""Labels separated by dots. The last label is not a number: such a name is a malformed IP address."""

JOB_UUID = "(?i:[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12})"
"""The accepted text of a UUID. UUID() alone accepts blanks, line breaks and underscores, which must not be logged."""


def hotkey(value: object) -> str:
    """Return `value` if it is a valid hotkey."""
    if not isinstance(value, str) or not re.fullmatch(HOTKEY, value) or not value.isprintable():
        raise BadInputError(
            f"{value!r:.80} is not a hotkey. A hotkey has 1 to {HOTKEY_LENGTH} printable characters and no blanks."
        )
    return value


def hotkeys(values: Iterable[str], name: str) -> frozenset[str]:
    """Return `values` if all are valid hotkeys. A single string is refused: each letter would be a hotkey."""
    if isinstance(values, str):
        raise BadInputError(f"{name} must be a list of hotkeys: [{values!r:.80}], not {values!r:.80}.")
    return frozenset(hotkey(value) for value in values)


def executor_class(value: str) -> str:
    """Return `value` if it is a known executor class."""
    try:
        return ExecutorClass(value).value
    except ValueError:
        raise BadInputError(
            f"Unknown executor class {value!r:.80}. The classes are: {', '.join(ExecutorClass)}."
        ) from None


def is_integer(value: object) -> TypeGuard[int]:
    """Tell whether `value` has an integer type, including NumPy's, and is not a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool) and hasattr(value, "__index__")


def is_real(value: object) -> TypeGuard[float]:
    """Tell whether `value` is a number that can be compared: int, float, Fraction, NumPy number or finite Decimal."""
    if isinstance(value, Decimal):
        return value.is_finite()
    return is_integer(value) or (isinstance(value, Real) and not isinstance(value, Integral))


def to_float(value: float) -> float:
    """Return a real number as the nearest float, or as infinity if it is too large."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def whole(value: object, name: str, highest: int) -> int:
    """Return `value` as an int if it is an integer from 0 to `highest`."""
    if not is_integer(value) or not 0 <= int(value) <= highest:
        raise BadInputError(f"{name} must be an integer (int or NumPy integer) from 0 to {highest}, not {value!r:.80}.")
    return int(value)


def reservation_id(value: object) -> int:
    """Return `value` as an int if it is an integer."""
    if not is_integer(value):
        raise BadInputError(
            f"A reservation id must be an integer, not {value!r:.80}. Fixed routes have no reservation."
        )
    return int(value)


def block_number(value: object) -> int:
    """Return `value` as an int if it is a valid block number."""
    return whole(value, "A block number", MAX_BLOCK_NUMBER)


def wei(value: int | str) -> int:
    """Return `value` as an int if it is a valid amount of Wei. Digits in a string, as in journals, are accepted."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= len(str(MAX_WEI)):
        value = int(value)
    return whole(value, "Wei", MAX_WEI)


def timestamp(value: object) -> dt.datetime:
    """Return `value` if it is a datetime with a time zone in the years 1970 to 2999."""
    if not isinstance(value, dt.datetime) or value.utcoffset() is None or not 1970 <= value.year < 3000:
        raise BadInputError(
            f"A timestamp must be a datetime with a time zone, of the years 1970 to 2999, not {value!r:.80}."
        )
    return value


def stake_share(value: object) -> float:
    """Return `value` as a float if it is from 0 to 1."""
    if not is_real(value) or not 0 <= value <= 1:
        raise BadInputError(f"A stake share must be a number from 0 to 1, not {value!r:.80}.")
    return float(value)


def seconds(value: object) -> float:
    """Return `value` as a float if it is a valid length of a job in seconds.

    Raises BadInputError unless it is a finite number above 0, JobTooLong above MAX_JOB_RUN_TIME.
    """
    if not is_real(value) or not 0 < value < math.inf or not to_float(value) > 0:
        raise BadInputError(f"Seconds must be a finite number above 0, not {value!r:.80}.")
    if to_float(value) > MAX_JOB_RUN_TIME:
        raise JobTooLong(min(to_float(value), sys.float_info.max))
    return to_float(value)


def time_limit(value: object) -> float:
    """Return `value`, a time limit in seconds, as an int or a float if it is 0 or more."""
    if not is_real(value) or not value >= 0:
        raise BadInputError(f"A time limit must be 0 s or more, not {value!r:.80}.")
    return int(value) if is_integer(value) else to_float(value)


def job_uuid(value: object) -> UUID:
    """Return `value`, a UUID or its text, as a UUID."""
    if isinstance(value, UUID):
        return value
    if isinstance(value, str) and re.fullmatch(JOB_UUID, value):
        return UUID(value)
    raise BadInputError(f"A job's uuid must be a UUID, not {value!r:.80}.")


def address(value: object, name: str) -> tuple[str, int | None]:
    """Return an address in its canonical form, and its IP version, which is None for a host name.

    Raises BadInputError if `value` is neither an IP address nor a host name.
    """
    if isinstance(value, str) and "%" not in value:  # a zone is valid only on its own host
        with suppress(ValueError):
            ip = ipaddress.ip_address(value)
            mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
            nowhere = ip.is_unspecified or (mapped is not None and mapped.is_unspecified)
            return ("::" if ip.version == 6 else "0.0.0.0") if nowhere else str(ip), ip.version  # noqa: S104
        if len(value) <= MAX_HOST_NAME and re.fullmatch(HOST_NAME, value):
            return value, None
    raise BadInputError(f"{name} must be an IP address or a host name, not {value!r:.80}.")


def axon(name: str, value: Mapping[str, object]) -> Miner:
    """Return miner `name` with its address. `value` has `address`, `ip_version` (4, 6, or 0 for none) and `port`.

    An address that can't be reached, such as 0.0.0.0, is accepted. The version of an IP address follows from the
    address, unless `ip_version` is 0.
    """
    if not isinstance(value, Mapping):
        raise BadInputError(f"The axon of {name} must be a mapping, not {value!r:.80}.")
    where, version = address(value.get("address"), f"The address of {name}")
    label = whole(value.get("ip_version", 4), f"The IP version of {name}", 6)
    if label not in IP_VERSIONS:
        raise BadInputError(f"The IP version of {name} must be 4, 6, or 0 for no address, not {label}.")
    port = whole(value.get("port"), f"The port of {name}", MAX_PORT)
    return Miner(where, label and (version or label), port, hotkey(name))


def manifest(name: str, counts: Mapping[str, int]) -> dict[str, int]:
    """Return the executor counts that miner `name` declared, by class."""
    if not isinstance(counts, Mapping):
        raise BadInputError(f"The manifest of {name} must be a mapping, not {counts!r:.80}.")
    try:
        return {executor_class(c): whole(n, f"The executor count of {c}", MAX_EXECUTORS) for c, n in counts.items()}
    except BadInputError as error:
        raise BadInputError(f"The manifest of {name}: {error}") from None
