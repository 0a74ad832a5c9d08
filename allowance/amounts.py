"""Format and parse amounts of Wei. The text is exact: `parse_wei` reads what `wei_text` writes."""

from __future__ import annotations

import re
from typing import Any

from django import forms

from allowance.types import MAX_WEI, BadInputError

TAO_ZEROS = 18
"""1 TAO is 10**18 Wei on the subnet's EVM."""

RAO = 10**9
"""The chain's smallest unit (10**-9 TAO), in Wei. Smaller amounts are printed in Wei, all others in TAO."""

MOST_DIGITS = len(str(MAX_WEI))

AMOUNT = re.compile(r"([0-9]+(?:_[0-9]+)*)(?:\.([0-9]+))?(?:e([+-]?[0-9]{1,3}))?\s*(wei|tao)?", re.ASCII)

HOW = "Write it as 10_000 Wei, 1e16 or 0.01 TAO."


def wei_text(wei: int) -> str:
    """Return an amount as text in TAO, such as 0.01 TAO. Amounts below 10**-9 TAO are in Wei, such as 25 Wei."""
    if wei < RAO:
        return f"{wei} Wei"
    whole, rest = divmod(wei, 10**TAO_ZEROS)
    decimals = f"{rest:0{TAO_ZEROS}d}".rstrip("0")
    return f"{whole}.{decimals} TAO" if decimals else f"{whole} TAO"


def parse_wei(text: str) -> int:
    """Parse an amount and return it in Wei. Examples: 10000, 10_000 Wei, 1e16, 0.01 TAO. The default unit is Wei.

    Raises BadInputError if the text is not an amount, is not a whole number of Wei, or exceeds MAX_WEI. Also raises it
    for a comma, and for a point without TAO or an exponent: their meaning differs between countries.
    """
    match = AMOUNT.fullmatch(text.strip().lower())
    if match is None:
        comma = " A comma may stand for thousands or for decimals, so it is not accepted." if "," in text else ""
        raise BadInputError(f"{text!r:.80} is not an amount.{comma} {HOW}")
    whole, decimals, exponent, unit = match.groups(default="")
    if decimals and not exponent and unit != "tao":
        raise BadInputError(
            f"{text!r:.80} has a point, which may stand for thousands or for decimals. Wei are whole numbers. {HOW}"
        )
    digits = (whole.replace("_", "") + decimals).lstrip("0")
    if not digits:
        return 0
    zeros = int(exponent or 0) - len(decimals) + (TAO_ZEROS if unit == "tao" else 0)
    if zeros < 0:
        digits, fraction = digits[:zeros], digits[zeros:]
        if fraction.strip("0"):
            raise BadInputError(f"{text!r:.80} is not a whole number of Wei. {HOW}")
    if len(digits) + zeros > MOST_DIGITS or int(digits + "0" * zeros) > MAX_WEI:
        raise BadInputError(f"{text!r:.80} is more than 2**256 - 1 Wei, the maximum. {HOW}")
    return int(digits + "0" * zeros)


class WeiFormField(forms.CharField):
    """A form field for an amount: an int in Wei, shown by `wei_text` and parsed by `parse_wei`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"help_text": HOW, **kwargs})

    def to_python(self, value: Any) -> Any:
        if isinstance(value, int):
            return value
        text = super().to_python(value)
        try:
            return parse_wei(text) if text else None
        except BadInputError as error:
            raise forms.ValidationError(str(error)) from error

    def prepare_value(self, value: Any) -> Any:
        return wei_text(value) if isinstance(value, int) else value
