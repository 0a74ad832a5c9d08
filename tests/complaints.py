"""What the router's system checks complain about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, run_checks
from django.db import connections, models
from django.test import override_settings

OURS = frozenset({"allowance", "router_receipts", "routing", "constance"})


class Sends:
    """A database router of a site: it sends the models of some apps to another database."""

    def __init__(self, alias: str, apps: frozenset[str] = OURS) -> None:
        self.alias, self.apps = alias, apps

    def db_for_read(self, model: type[models.Model], **_hints: Any) -> str | None:
        return self.alias if model._meta.app_label in self.apps else None

    db_for_write = db_for_read

    def allow_migrate(self, db: str, app_label: str, **_hints: Any) -> bool:
        return (db == self.alias) == (app_label in self.apps)


@contextmanager
def another_database(database: dict[str, Any], *routers: object) -> Iterator[None]:
    """Give the site another database, `other`, and database routers. Nothing connects to it."""
    settings.DATABASES["other"] = database
    try:
        with override_settings(DATABASE_ROUTERS=routers):
            yield
    finally:
        if any(wrapper.alias == "other" for wrapper in connections.all(initialized_only=True)):
            del connections["other"]
        del settings.DATABASES["other"]


def complaints(**which: Any) -> list[CheckMessage]:
    """Return what the router's checks complain about, as `manage.py check` does."""
    return [m for m in run_checks(**which) if str(m.id).startswith(("allowance.", "routing."))]


def assert_only_complaint(identity: str, *mentioned: str, **which: Any) -> None:
    found = complaints(**which)
    assert [m.id for m in found] == [identity]
    assert found[0].is_serious()
    assert found[0].hint
    for text in mentioned:
        assert text in found[0].msg
