"""docs/reference.md: it has the whole public interface, and says of it what the code says."""

from __future__ import annotations

import inspect
import os
import re

import environ
import pytest

import routing.types
from allowance.service import Allowance
from receipts.service import Receipts
from routing.conf import SETTINGS
from routing.dynamic import MAX_WINDOW_HOURS
from routing.service import Routing
from tests.reference import APPS, EXAMPLE, PAGE, example, family, load_all, written

NAMES = set(re.findall(r"\w+", PAGE.read_text()))
INTERNAL = {"NotAdmitted", "NotRead", "Outdated", "Overtaken", "Silence", "Untold", "_Unusable"}
"""Errors that never leave our sockets, our pages and the module that raises them."""

ERRORS = {
    kind.__name__: kind
    for module in load_all()
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Exception) and kind.__module__.partition(".")[0] in APPS
}


def test_the_page_says_what_the_code_says() -> None:
    page = PAGE.read_text()
    assert written(page) == page, "write it anew: make reference"


def test_the_example_of_an_environment_has_all_settings() -> None:
    assert example(EXAMPLE.read_text()) == EXAMPLE.read_text(), "write it anew: make reference"
    names = set(re.findall(r"^#([A-Z_]+)=", EXAMPLE.read_text(), re.MULTILINE))
    assert names > {*SETTINGS, "SECRET_KEY"}


def test_the_site_s_settings_have_the_defaults() -> None:
    environment = environ.Env()
    assert {name: setting.read(environment) for name, setting in SETTINGS.items() if name not in os.environ} == {
        name: setting.default for name, setting in SETTINGS.items() if name not in os.environ
    }


def test_incidents_outlast_the_longest_window() -> None:
    assert SETTINGS["ROUTING_KEEP_INCIDENTS_DAYS"].default * 24 > MAX_WINDOW_HOURS


def test_every_error_is_on_the_page() -> None:
    assert {"AllowanceException", "JobRoutingException", "BadInputError"} < ERRORS.keys()
    assert ERRORS.keys() - NAMES == INTERNAL


def test_every_word_of_routing_is_on_the_page() -> None:
    assert set(routing.types.__all__) - {"Timings"} <= NAMES


@pytest.mark.parametrize("service", [Allowance, Receipts, Routing])
def test_every_public_method_is_described_and_the_errors_that_it_names_exist(service: type) -> None:
    for name, method in inspect.getmembers(service, inspect.isfunction):
        if name.startswith("_"):
            continue
        assert name in NAMES
        raised = set(re.findall(r"\b(?:[A-Z][a-z]+){2,}\b", inspect.getdoc(method) or ""))
        assert raised <= {*ERRORS, "ValueError", "ImproperlyConfigured"}, name


def test_an_error_has_those_derived_from_it_below_itself() -> None:
    names = [kind.__name__ for kind in family(ERRORS["AllowanceException"])]
    assert names[0] == "AllowanceException"
    assert names.index("ReservationException") < names.index("ReservationNotFound") < names.index("ReservationReleased")
