"""Pages for operators with whatever may stand in an address: an answer, and never an error of ours."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.contrib.auth.models import AbstractBaseUser
from django.contrib.messages.storage import default_storage
from django.core.exceptions import BadRequest, SuspiciousOperation
from django.db import models
from django.template.response import TemplateResponse
from django.test import Client, RequestFactory
from django.urls import resolve, reverse
from pytest_django import Settings

from allowance.plumbing.lists import POLICY, SUFFIXES
from receipts.models import JobStartedReceipt
from routing.models import AccessToken, DecisionRecord, MinerIncident
from routing.pages import MENU
from tests.browser.settings import POLICY as STRICTEST
from tests.clock import noon
from tests.integration import past

MODELS = [
    model
    for app in ("allowance", "router_receipts", "routing")
    for model in apps.get_app_config(app).get_models()
    if admin.site.is_registered(model)
]
pytestmark = noon

EDGES = ("9" * 30, "0001-01-01 00:00:00+14:00", "9999-12-31T23:59:59-14:00")
"""What a text can say and not every database compare."""
VALUES = (
    *("\0", "a\0b", "(", "", "1", "1e400", "nan", "é" * 500),
    *(*EDGES, "2026-13-45", "2026-01-01"),
)
LOOKUPS = ("regex", "contains", "has_key", "year", "range")
DJANGOS = ("q", "o", "p", "e", "_to_field")

each_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)


@pytest.fixture(autouse=True)
def rows(db: None, nothing_kept: None, settings: Settings) -> None:
    past.record_history(settings)


def changelist(model: type[models.Model]) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


def asked(model: type[models.Model]) -> Iterator[tuple[str, str]]:
    """Yield what the filters of a list ask for, with all values, and lookups of its columns that no filter asks for."""
    spec = admin.site.get_model_admin(model)
    names = [getattr(each, "parameter_name", each) for each in spec.list_filter]
    filters = [name[0] if isinstance(name, tuple) else name for name in names]
    linked = getattr(spec, "linked", ("miner_hotkey__exact",))
    for name in (*DJANGOS, *linked, *(f"{name}{suffix}" for name in filters for suffix in SUFFIXES)):
        yield from ((name, value) for value in VALUES)
    for field in model._meta.concrete_fields:
        yield from ((f"{field.name}__{lookup}", "(") for lookup in LOOKUPS)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Log no refusal: each has a traceback, and there are thousands."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def answered(address: str, user: AbstractBaseUser) -> int:
    """Return the status of a list's page. It reads the rows and the filters, but it does not draw the page."""
    request: Any = RequestFactory().get(address)
    request.user, request.session = user, {}
    request._messages = default_storage(request)
    view, arguments, named = resolve(request.path)
    try:
        response = view(request, *arguments, **named)
    except (BadRequest, SuspiciousOperation):
        return 400
    if isinstance(response, TemplateResponse) and not response.is_rendered:
        listed = (response.context_data or {})["cl"]
        list(listed.result_list)
        for spec in listed.filter_specs:
            list(spec.choices(listed))
    status: int = response.status_code
    return status


@each_model
@pytest.mark.filterwarnings("ignore:DateTimeField .* received a naive datetime:RuntimeWarning")
def test_a_list_answers_whatever_its_address_asks_for(
    model: type[models.Model], admin_client: Client, admin_user: AbstractBaseUser
) -> None:
    page = changelist(model)
    assert admin_client.get(page).status_code == 200
    for name, value in asked(model):
        address = f"{page}?{urlencode({name: value})}"
        status = answered(address, admin_user)
        if name.endswith(LOOKUPS) or ("\0" in value and name != "q") or (name == "_to_field" and value):
            assert status == 400, address
        else:
            assert status in ({200, 302, 400} if value in EDGES else {200, 302}), address
    for lookup in ("pk__regex=(", "pk__nothing=1", "nothing=1", "%00=1"):
        assert admin_client.get(f"{page}?{lookup}").status_code == 400, lookup


@pytest.mark.parametrize(
    ("model", "query"), [(JobStartedReceipt, "timestamp__gte"), (AccessToken, "issued_at__lt")], ids=str
)
def test_a_date_that_django_can_t_read_leads_back_to_the_list(
    model: type[models.Model], query: str, admin_client: Client
) -> None:
    page = changelist(model)
    for value in ("2026-13-45", "nan", "("):
        response = admin_client.get(page, {query: value})
        assert (response.status_code, response.headers["Location"]) == (302, f"{page}?e=1"), value


@each_model
def test_an_action_on_what_is_no_row_s_key_is_refused(model: type[models.Model], admin_client: Client) -> None:
    for action in admin.site.get_model_admin(model).actions or ():
        for key in ("a", "", "\0", "1\0", "1.5", "9" * 30, f"-{'9' * 30}", "9" * 5000):
            for keys in ([key], ["1", key]):
                response = admin_client.post(changelist(model), {"action": action, "_selected_action": keys})
                assert response.status_code == 400, key


@pytest.mark.parametrize("model", [m for m in MODELS if "void" in (admin.site.get_model_admin(m).actions or ())])
def test_there_is_no_page_to_void_what_is_no_row(model: type[models.Model], admin_client: Client) -> None:
    page = f"admin:{model._meta.app_label}_{model._meta.model_name}_void"
    for pk in (10**9, 10**30):
        assert admin_client.get(reverse(page, args=[pk])).status_code == 404


@each_model
def test_a_row_s_page_answers_whatever_its_address_names(model: type[models.Model], admin_client: Client) -> None:
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
    for value in filter(None, VALUES):
        for page in ("change", "history", "delete"):
            response = admin_client.get(reverse(f"{name}_{page}", args=[quote(value)]))
            assert response.status_code in {200, 302, 403, 404}, (page, value)


@pytest.mark.parametrize("view", [*(page.name for page in MENU), "routing_minerincident_csv"])
def test_our_pages_answer_whatever_their_address_asks_for(view: str, admin_client: Client) -> None:
    page = reverse(f"admin:{view}")
    asked = ("executor_class", "seconds", "minimum_wei", "hours", "unused_blocks", "exclude")
    for name in (*asked, "format", "sort", "time", "miner"):
        for value in VALUES:
            address = f"{page}?{urlencode({name: value})}"
            assert admin_client.get(address).status_code in {200, 302, 400}, address


def test_a_miner_s_page_answers_whatever_its_address_names(admin_client: Client) -> None:
    for value in filter(None, VALUES):
        page = reverse("admin:routing_miner", args=[quote(value)])
        assert admin_client.get(page).status_code in {404, 301}, value
        known = reverse("admin:routing_miner", args=["anna"])
        assert admin_client.get(f"{known}?{urlencode({'seconds': value})}").status_code == 200, value


def our_pages() -> list[str]:
    incident, decision = MinerIncident.objects.earliest("pk"), DecisionRecord.objects.earliest("pk")
    return [
        *(reverse(f"admin:{page.name}") for page in MENU),
        *map(changelist, MODELS),
        reverse("admin:routing_miner", args=["anna"]),
        reverse("admin:routing_minerincident_change", args=[incident.pk]),
        reverse("admin:routing_minerincident_void", args=[incident.pk]),
        reverse("admin:routing_minerincident_csv"),
        reverse("admin:routing_decisionrecord_change", args=[decision.pk]),
    ]


def test_our_pages_come_with_the_strictest_policy(admin_client: Client) -> None:
    assert POLICY == STRICTEST
    for page in our_pages():
        assert admin_client.get(page).headers["Content-Security-Policy"] == POLICY, page
    assert "Content-Security-Policy" not in admin_client.get(reverse("admin:auth_user_changelist")).headers


class SiteCSPMiddleware:
    """A site's own policy, sent where there is none, as django-csp and Django 6 do."""

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        response = self.get_response(request)
        response.headers.setdefault("Content-Security-Policy", "default-src https:")
        return response


def test_the_policy_of_a_site_wins(admin_client: Client, settings: Settings) -> None:
    settings.MIDDLEWARE = [f"{__name__}.SiteCSPMiddleware", *settings.MIDDLEWARE]
    for page in our_pages():
        assert admin_client.get(page).headers["Content-Security-Policy"] == "default-src https:", page
