"""The README's lines for a site's settings: they add what is missing, and change nothing that is there."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from routing.dynamic import (
    APPS,
    CONSTANCE_FIELDS,
    CONSTANCE_SETTINGS,
    EXECUTOR_LIMITS,
    FIELDSET,
    MINIMUM_WEI,
    UNUSED_BLOCKS,
    WINDOW_HOURS,
)

README = (Path(__file__).parents[2] / "README.md").read_text()
[LINES] = re.findall(r"^```python\n(# settings\.py.*?)^```$", README, re.MULTILINE | re.DOTALL)

CONSTANCE: dict[str, Any] = {
    "CONSTANCE_BACKEND": "constance.backends.redisd.RedisBackend",
    "CONSTANCE_CONFIG": {"GREETING": ("hello", "What to say.", "line"), MINIMUM_WEI: (10**16, "Ours.", int)},
    "CONSTANCE_ADDITIONAL_FIELDS": {"line": ["django.forms.CharField", {"max_length": 80}]},
}


def site(**settings: Any) -> dict[str, Any]:
    """Return a site's settings after the README's lines."""
    module = {"INSTALLED_APPS": ["yours"], "DATABASES": {"default": {"ENGINE": "x"}}, **deepcopy(settings)}
    exec(LINES, module)  # noqa: S102 (our own page)
    return module


def test_a_site_without_any_of_it_gets_all() -> None:
    module = site()
    assert module["INSTALLED_APPS"] == ["yours", *APPS]
    assert module["CONSTANCE_BACKEND"] == "constance.backends.database.DatabaseBackend"
    assert module["CONSTANCE_CONFIG"] == CONSTANCE_SETTINGS
    assert module["CONSTANCE_ADDITIONAL_FIELDS"] == CONSTANCE_FIELDS
    assert "CONSTANCE_CONFIG_FIELDSETS" not in module
    assert module["DATABASES"]["default"] == {"ENGINE": "x", "CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True}


@pytest.mark.parametrize("sequence", [list, tuple])
@pytest.mark.parametrize("entry", ["constance", "constance.apps.ConstanceConfig"])
def test_no_app_is_listed_twice(entry: str, sequence: type) -> None:
    listed = ["channels", "compute_horde.receipts", entry, "yours"]
    apps = site(INSTALLED_APPS=sequence(listed))["INSTALLED_APPS"]
    assert apps == [*listed, "allowance", "receipts", "routing"]


def test_what_a_site_has_for_constance_stays() -> None:
    module = site(**CONSTANCE)
    assert module["CONSTANCE_BACKEND"] == CONSTANCE["CONSTANCE_BACKEND"]
    assert module["CONSTANCE_CONFIG"] == {
        **CONSTANCE["CONSTANCE_CONFIG"],
        WINDOW_HOURS: CONSTANCE_SETTINGS[WINDOW_HOURS],
        UNUSED_BLOCKS: CONSTANCE_SETTINGS[UNUSED_BLOCKS],
        EXECUTOR_LIMITS: CONSTANCE_SETTINGS[EXECUTOR_LIMITS],
    }
    assert module["CONSTANCE_ADDITIONAL_FIELDS"] == {**CONSTANCE["CONSTANCE_ADDITIONAL_FIELDS"], **CONSTANCE_FIELDS}


@pytest.mark.parametrize(
    ("groups", "after"),
    [
        (
            {"Words": ("GREETING",)},
            {"Words": ("GREETING",), FIELDSET: (MINIMUM_WEI, WINDOW_HOURS, UNUSED_BLOCKS, EXECUTOR_LIMITS)},
        ),
        (
            (("Words", ["GREETING"]),),
            (("Words", ["GREETING"]), (FIELDSET, (MINIMUM_WEI, WINDOW_HOURS, UNUSED_BLOCKS, EXECUTOR_LIMITS))),
        ),
        (
            {"Words": {"fields": ("GREETING", MINIMUM_WEI), "collapse": True}},
            {
                "Words": {"fields": ("GREETING", MINIMUM_WEI), "collapse": True},
                FIELDSET: (WINDOW_HOURS, UNUSED_BLOCKS, EXECUTOR_LIMITS),
            },
        ),
        (
            {"All": ("GREETING", MINIMUM_WEI, WINDOW_HOURS, UNUSED_BLOCKS, EXECUTOR_LIMITS)},
            {"All": ("GREETING", MINIMUM_WEI, WINDOW_HOURS, UNUSED_BLOCKS, EXECUTOR_LIMITS)},
        ),
    ],
    ids=["by name", "in order", "one of ours, collapsed", "all of ours"],
)
def test_a_site_s_fieldsets_get_one_more_for_what_they_do_not_show(groups: Any, after: Any) -> None:
    """Otherwise constance warns of each missing one, and its page can't be saved."""
    assert site(**CONSTANCE, CONSTANCE_CONFIG_FIELDSETS=groups)["CONSTANCE_CONFIG_FIELDSETS"] == after


def test_the_same_lines_again_change_nothing() -> None:
    groups = {"CONSTANCE_CONFIG_FIELDSETS": {"Words": ("GREETING",)}}
    once = site(**CONSTANCE, **groups)
    again = dict(once)
    exec(LINES, again)  # noqa: S102 (our own page)
    assert {name: again[name] for name in once if name.isupper()} == {
        name: once[name] for name in once if name.isupper()
    }


def test_what_constance_makes_of_a_site_s_fields_does_not_change_ours() -> None:
    before = deepcopy(CONSTANCE_FIELDS)
    for _, options in site()["CONSTANCE_ADDITIONAL_FIELDS"].values():
        options["widget"] = object()
    assert before == CONSTANCE_FIELDS
