"""What the router's system checks complain about."""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage, run_checks


def complaints(**which: Any) -> list[CheckMessage]:
    """Return what the router's checks complain about, as `manage.py check` does."""
    return [m for m in run_checks(**which) if str(m.id).startswith("routing.")]


def assert_only_complaint(identity: str, *mentioned: str, **which: Any) -> None:
    found = complaints(**which)
    assert [m.id for m in found] == [identity]
    assert found[0].is_serious()
    assert found[0].hint
    for text in mentioned:
        assert text in found[0].msg
