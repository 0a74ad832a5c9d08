"""The database at one moment: to compare with, and to come back to."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.apps import apps
from django.db import models, router, transaction
from django.utils import timezone

from tests.factories import stored, stored_fields

Rows = dict[str, list[tuple[Any, ...]]]


class Snapshot:
    """All rows of all tables."""

    def __init__(self) -> None:
        self.taken_at = timezone.now()
        self.rows = stored()
        self.times = {
            value for rows in self.rows.values() for row in rows for value in row if isinstance(value, dt.datetime)
        }
        self.keys = {label: {row[0] for row in rows} for label, rows in self.rows.items()}

    def state(self) -> Rows:
        """Return all rows of now, with what differs from run to run made alike: ids and times newer than this."""
        return {
            label: rows if rows == self.rows[label] else [self._alike(_model(label), row) for row in rows]
            for label, rows in stored().items()
        }

    def restore(self) -> None:
        """Bring the tables that differ back to what they were."""
        with transaction.atomic():
            for label, rows in stored().items():
                if rows != self.rows[label]:
                    manager = _model(label)._base_manager
                    manager.all()._raw_delete(router.db_for_write(_model(label)))
                    names = [field.attname for field in stored_fields(_model(label))]
                    manager.bulk_create(
                        [_model(label)(**dict(zip(names, row, strict=True))) for row in self.rows[label]]
                    )

    def _alike(self, model: type[models.Model], row: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(self._alike_value(field, value) for field, value in zip(stored_fields(model), row, strict=True))

    def _alike_value(self, field: models.Field[Any, Any], value: object) -> object:
        target = field.target_field if isinstance(field, models.ForeignKey) else field
        if isinstance(target, models.AutoField) and value is not None:
            return value if value in self.keys[target.model._meta.label] else "new"
        if isinstance(value, dt.datetime) and value > self.taken_at and value not in self.times:
            return "later"
        return value


def _model(label: str) -> type[models.Model]:
    return apps.get_model(label)
