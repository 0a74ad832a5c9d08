"""Model fields for values that the databases have no type for."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from allowance.ledger import Steps
from allowance.types import MAX_WEI

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    WeiText = models.CharField[int, int]
    StepsJSON = models.JSONField[Steps, Steps]
    BitsBinary = models.BinaryField[int, int]
else:
    WeiText, StepsJSON, BitsBinary = models.CharField, models.JSONField, models.BinaryField

WEI_DIGITS = len(str(MAX_WEI))


class WeiField(WeiText):
    """An amount of Wei, 0 to 2**256 - 1, stored as text of WEI_DIGITS digits.

    SQLite rounds decimals of this size. Text of equal length is exact and sorts like the numbers on every database.
    """

    default_validators = [MinValueValidator(0), MaxValueValidator(MAX_WEI)]  # noqa: RUF012 (Django's own way)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "max_length": WEI_DIGITS})

    def deconstruct(self) -> tuple[str, str, list[Any], dict[str, Any]]:
        name, path, args, kwargs = super().deconstruct()
        del kwargs["max_length"]
        return name, path, list(args), kwargs

    def from_db_value(self, value: str | None, _expression: object, _connection: BaseDatabaseWrapper) -> int | None:
        return None if value is None else int(value)

    def to_python(self, value: Any) -> int | None:
        return None if value is None else int(value)

    def get_prep_value(self, value: Any) -> str | None:
        return None if value is None else f"{int(value):0{WEI_DIGITS}d}"


class StepsField(StepsJSON):
    """A step function of the block number (see allowance.ledger), stored as JSON."""

    def from_db_value(self, value: str | None, _expression: object, _connection: BaseDatabaseWrapper) -> Steps:
        return parse_steps(value or "[]")


@lru_cache(maxsize=4096)
def parse_steps(text: str) -> Steps:
    """Parse a step function. The results are cached: a pick reads hundreds, and many are equal."""
    return tuple((block, then) for block, then in json.loads(text))


class BitsField(BitsBinary):
    """A set of blocks (see allowance.ledger): an int of any size, stored as little-endian bytes."""

    def from_db_value(self, value: Any, _expression: object, _connection: BaseDatabaseWrapper) -> int:
        return int.from_bytes(value or b"", "little")  # None comes from an outer join without a row

    def to_python(self, value: Any) -> int:
        return int(value)

    def value_to_string(self, obj: models.Model) -> str:
        """Return the number as decimal text, for serializers that accept only text."""
        return str(self.value_from_object(obj))

    def get_db_prep_value(self, value: Any, connection: BaseDatabaseWrapper, prepared: bool = False) -> Any:
        if isinstance(value, int):
            value = value.to_bytes((value.bit_length() + 7) // 8, "little")
        return super().get_db_prep_value(value, connection, prepared)
