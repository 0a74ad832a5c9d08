"""Who may see and do what on the site: at every address that its URLs have, found by walking them.

A page or an action that is added tomorrow is tried too, and fails here if it is open to whoever lacks its permission.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from django.apps import apps
from django.conf import settings
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from django.utils.regex_helper import normalize

from allowance.types import NotEnoughAllowanceException
from routing import routing
from routing.access import tokens
from routing.decision import in_force
from routing.dynamic import MINIMUM_WEI, UNUSED_BLOCKS, WINDOW_HOURS
from tests.factories import job_request, run_command, stored
from tests.follower import follow_all
from tests.integration.test_admin import MODELS, record_job, route
from tests.ledgers import fill_ledger
from tests.rows import hold
from tests.visitors import clerk

OK, FORBIDDEN, NOT_FOUND, NOT_ALLOWED = 200, 403, 404, 405
CONFIG = {f"constance_config_{view}" for view in ("changelist", "add", "change", "history")}
ABOUT_ONESELF = {"index", "login", "password_change", "password_change_done", "jsi18n"}
"""The admin's pages that take no permission but to be staff."""

NOWHERE = {"logout", "autocomplete", "view_on_site", ""}
"""What nobody gets to see: it takes a POST, or a form of which we have none; no name at all has the admin's 404."""


ASKED_BY_MACHINES = {"healthz", "readyz", "metrics"}
"""They read the database in threads that see nothing of a test's transaction: test_health and test_metrics ask them."""

HARM = {"post": "yes", "_save": "", "name": "x", "username": "x", "password1": "p 4 ssw0rd", "password2": "p 4 ssw0rd"}
"""A form that would add, change or delete something, were it taken."""


class Page(NamedTuple):
    name: str
    address: str


@pytest.fixture(autouse=True)
def rows(db: None, no_types_remembered: None) -> None:
    """At least a row of every model that has a page."""
    fill_ledger("anna")
    hold()
    record_job("anna", uuid4())
    route("anna", uuid4())
    tokens.issue("anna", ["jobs"], dt.timedelta(days=1))
    run_command("check_ledger")
    follow_all()
    with pytest.raises(NotEnoughAllowanceException):
        routing().pick(job_request(3600))
    User.objects.create_user("somebody", password="a password")
    Group.objects.create(name="some")


def patterns(resolver: URLResolver, prefix: str = "") -> Iterator[tuple[str, URLPattern]]:
    """Yield each URL pattern of a site, with its whole regular expression."""
    for pattern in resolver.url_patterns:
        regex = prefix + pattern.pattern.regex.pattern.removeprefix("^")
        if isinstance(pattern, URLResolver):
            yield from patterns(pattern, regex)
        else:
            yield regex, pattern


def pages() -> list[Page]:
    """Return every page of the site; one that is about a row, about the first of the model that its address names."""
    known = {"app_label": "routing", "hotkey": "anna", "content_type_id": ContentType.objects.get_for_model(User).pk}
    models = {f"admin/{m._meta.app_label}/{m._meta.model_name}/": m for m in apps.get_models()}
    found = []
    for regex, pattern in patterns(get_resolver()):
        if pattern.name in ASKED_BY_MACHINES:
            continue
        about = [
            model._default_manager.order_by("pk")[0] for prefix, model in models.items() if regex.startswith(prefix)
        ]
        pk = quote(about[0].pk) if about else "1"
        for template, names in normalize(regex):
            found.append(Page(pattern.name or "", "/" + template % {name: known.get(name, pk) for name in names}))
    return found


def visit(client: Client, method: str = "get", **data: object) -> dict[str, set[int | str]]:
    """Go to every page, and on to where it sends one; return the statuses by the page's name.

    It is "login" where that is the end. An exception in a page is one here.
    """
    found: dict[str, set[int | str]] = {}
    for page in pages():
        if (method, page.name) != ("post", "logout"):
            response = getattr(client, method)(page.address, data, follow=True)
            asked = response.status_code == OK and response.request["PATH_INFO"] == reverse("admin:login")
            found.setdefault(page.name, set()).add("login" if asked else response.status_code)
    return found


def open_to(client: Client) -> set[str]:
    """Return the names of the pages that can be seen."""
    return {name for name, statuses in visit(client).items() if OK in statuses}


def unharmed(deed: Callable[[], object]) -> None:
    """Do something, and insist that no table changed."""
    before = stored()
    deed()
    assert stored() == before


def staff(*permissions: Permission) -> Client:
    """Return the client of somebody in the staff."""
    return clerk(*(f"{permission.content_type.app_label}.{permission.codename}" for permission in permissions))


def viewer() -> Client:
    return staff(*Permission.objects.filter(codename__startswith="view_"))


def nobody() -> Client:
    return Client()


def stranger() -> Client:
    client = Client()
    client.force_login(User.objects.get(username="somebody"))
    return client


@pytest.mark.parametrize("who", [nobody, stranger])
def test_all_that_others_than_staff_can_see_is_the_login(who: Callable[[], Client]) -> None:
    client = who()
    assert set().union(*visit(client).values()) <= {"login", NOT_FOUND, NOT_ALLOWED}
    unharmed(lambda: visit(client, "post", **HARM))
    assert set().union(*visit(client, "post").values()) <= {"login", FORBIDDEN, NOT_FOUND, NOT_ALLOWED}


def test_staff_without_permissions_sees_what_is_about_itself() -> None:
    client = staff()
    assert open_to(client) - {""} == ABOUT_ONESELF
    assert client.get(reverse("admin:index")).context["app_list"] == []
    unharmed(lambda: visit(client, "post", **HARM))


def test_who_may_view_sees_every_page_and_changes_nothing() -> None:
    client, names = viewer(), {page.name for page in pages()}
    closed = {name for name in names if name.endswith(("_add", "_delete", "_void"))} | {"auth_user_password_change"}
    assert open_to(client) - {""} == names - closed - CONFIG - NOWHERE
    unharmed(lambda: visit(client, "post", **HARM))


def test_a_superuser_sees_all_pages_and_no_secret(admin_client: Client) -> None:
    read_only = {
        f"{model._meta.app_label}_{model._meta.model_name}_{view}" for model in MODELS for view in ("add", "delete")
    }
    names = {page.name for page in pages()}
    assert open_to(admin_client) - {""} == names - read_only - NOWHERE
    database = settings.DATABASES["default"]
    secrets = {settings.SECRET_KEY, os.environ.get("DATABASE_URL"), database.get("PASSWORD"), str(settings.BASE_DIR)}
    for page in pages():
        content = admin_client.get(page.address, follow=True).getvalue().decode()
        assert not [secret for secret in secrets if secret and secret in content], page


def act(client: Client, model_admin: admin.ModelAdmin[Any], action: str) -> None:
    """Run an action of the admin on all rows of a model, and confirm it."""
    meta, manager = model_admin.model._meta, getattr(model_admin.model, "_default_manager", None)
    rows = list(manager.values_list("pk", flat=True)) if manager else []
    data = {"action": action, "_selected_action": rows, "select_across": "1", "post": "yes"}
    client.post(reverse(f"admin:{meta.app_label}_{meta.model_name}_changelist"), data, follow=True)


ACTIONS = {
    f"{model._meta.label}-{name}": (model_admin, name)
    for model, model_admin in admin.site._registry.items()
    for _, name, _ in model_admin._get_base_actions()  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("which", ACTIONS)
@pytest.mark.parametrize("who", [nobody, stranger, staff, viewer])
def test_no_action_of_the_admin_takes_less_than_its_permission(who: Callable[[], Client], which: str) -> None:
    client = who()
    unharmed(lambda: act(client, *ACTIONS[which]))


def test_an_action_does_what_it_says_for_whoever_has_the_permission(admin_client: Client) -> None:
    act(admin_client, *ACTIONS["auth.Group-delete_selected"])
    assert not Group.objects.exists()


def test_the_dynamic_settings_are_for_superusers_only(admin_client: Client) -> None:
    address = reverse("admin:constance_config_changelist")
    version = admin_client.get(address).context["form"]["version"].value()
    form = {"version": version, MINIMUM_WEI: 7, WINDOW_HOURS: 2, UNUSED_BLOCKS: 15}
    stewards = staff(*Permission.objects.filter(content_type__app_label="constance"))
    assert [stewards.get(address).status_code, stewards.post(address, form).status_code] == [403, 403]
    assert in_force.policy() == in_force.make_policy(0, 24.0)
    assert admin_client.post(address, form).status_code == 302
    assert in_force.policy() == in_force.make_policy(7, 2.0, 15)


def test_a_form_of_another_site_is_refused() -> None:
    """Django's test client leaves the check of a form's origin out unless asked not to."""
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("boss"))
    unharmed(lambda: visit(client, "post", **HARM))
    assert set().union(*visit(client, "post", **HARM).values()) == {FORBIDDEN}
