"""What several tests begin with."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import connection, models, transaction

from allowance.models import Account
from allowance.types import RESERVATION_ID_BITS, ExecutorClass
from routing.models import DecisionRecord
from routing.requests import V2JobRequest, plain_request
from tests.ledgers import CLASS
from tests.programs import Finished

EXECUTOR_CLASS = ExecutorClass.always_on__gpu_24gb
OTHER_CLASS = ExecutorClass.always_on__test.value

HTML = "<b>'hot'&amp;</b>"
ESCAPED = "&lt;b&gt;&#x27;hot&#x27;&amp;amp;&lt;/b&gt;"
"""A hotkey that is HTML, and what a page must show of it."""


def job_request(seconds: int = 30, **fields: Any) -> V2JobRequest:
    """Return a request for a job of CLASS that may take so long; `fields` overrule, and are not checked."""
    return plain_request(CLASS, 0).model_copy(update={"execution_time_limit": seconds, **fields})


def stored() -> dict[str, list[tuple[Any, ...]]]:
    """Return what the database holds: the rows of every table, by the name of its model; see `stored_fields`.

    The log of decisions is left out: refusals are in it too.
    """
    models = [model for model in apps.get_models(include_auto_created=True) if model is not DecisionRecord]
    return {
        model._meta.label: list(
            model._default_manager.order_by("pk").values_list(*(field.attname for field in stored_fields(model)))
        )
        for model in models
    }


def stored_fields(model: type[models.Model]) -> list[models.Field[Any, Any]]:
    """Return the fields whose values tell what a row says. Random versions and numbers of transactions are left out."""
    return [field for field in model._meta.concrete_fields if field.name not in {"version", "changed"}]


def empty_tables() -> None:
    """Delete all rows that migrations did not make. Constraints are checked at the end, so the order doesn't matter."""
    kept = {"contenttypes.ContentType", "auth.Permission"}
    emptied = [model for model in apps.get_models(include_auto_created=True) if model._meta.label not in kept]
    with transaction.atomic(), connection.cursor() as cursor:
        for model in emptied:
            cursor.execute(f"DELETE FROM {connection.ops.quote_name(model._meta.db_table)}")  # noqa: S608


def draw(patch: pytest.MonkeyPatch, *ids: int) -> None:
    """Let the next reservation ids that are drawn by lot be these, and those after them as random as ever."""
    ahead, randbits = list(ids), secrets.randbits

    def drawn(bits: int) -> int:
        return ahead.pop(0) if ahead and bits == RESERVATION_ID_BITS else randbits(bits)

    patch.setattr(secrets, "randbits", drawn)


def read_account(*, wait: float | None = None, **which: Any) -> Account | None:
    """Return the account that `lock_account` would, without locking it."""
    if first_of := which.pop("first_of", None):
        which["miner"] = next(iter(first_of))
    return Account.objects.select_related("miner").filter(**which).first()


def run_command(name: str, *arguments: object) -> Finished:
    """Run a management command to its end."""
    out, err = StringIO(), StringIO()
    try:
        call_command(name, *map(str, arguments), stdout=out, stderr=err)
    except CommandError as error:
        return Finished(error.returncode, out.getvalue(), str(error))
    except SystemExit as end:
        return Finished(int(end.code or 0), out.getvalue(), err.getvalue())
    return Finished(0, out.getvalue(), err.getvalue())


def raising(error: type[Exception] | Exception) -> Callable[..., Any]:
    """Return a function that raises an error, however it is called."""

    def fail(*_args: object, **_kwargs: object) -> None:
        raise error

    return fail
