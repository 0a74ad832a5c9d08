"""Pages for operators in Django's admin: their permissions, their menu, and shared functions.

They are plain views. `routing.admin` mounts them, so every site with the apps and an admin has them. They need no
library except Django: the code that draws their charts is included.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

from django.contrib import admin
from django.contrib.admin.utils import quote
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import HttpRequest, HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html

from allowance.plumbing.lists import strict


class Page(NamedTuple):
    """A page in the menu: its name among the admin's URLs, its title, and the permissions that it needs."""

    name: str
    title: str
    permissions: tuple[str, ...]


SEE_MINERS = ("allowance.view_miner", "allowance.view_account", "routing.view_minerincident")
SEE_RECEIPTS = tuple(f"router_receipts.view_job{kind}receipt" for kind in ("started", "accepted", "finished"))
SEE_MINER = (
    *SEE_MINERS,
    *SEE_RECEIPTS,
    "routing.view_decisionrecord",
    "allowance.view_reservation",
    "allowance.view_sourcereport",
    "allowance.view_block",
)
SEE_DECISIONS = ("routing.view_decisionrecord",)
SEE_LEDGER = (
    "allowance.view_miner",
    "allowance.view_account",
    "allowance.view_reservation",
    "allowance.view_ledgercheck",
)
SEE_SOURCES = ("allowance.view_follower", "allowance.view_sourcereport", "allowance.view_block")
SEE_INCIDENTS = ("routing.view_minerincident",)
SEE_STATUS = (
    "routing.view_decisionrecord",
    "allowance.view_block",
    "allowance.view_manifestsync",
    "allowance.view_miner",
    "allowance.view_reservation",
    "allowance.view_ledgercheck",
    "allowance.view_follower",
    "allowance.view_sourcereport",
)

MENU = (
    Page("routing_status", "Status", SEE_STATUS),
    Page("routing_minerincident_changelist", "Incidents", SEE_INCIDENTS),
    Page("routing_board", "Reliability", SEE_MINERS),
    Page("routing_decisionrecord_changelist", "Decisions", SEE_DECISIONS),
    Page("routing_ledger", "Ledger", SEE_LEDGER),
    Page("routing_sources", "Sources", SEE_SOURCES),
)

View = Callable[..., HttpResponseBase]


def needs(*permissions: str) -> Callable[[View], View]:
    """Return a decorator that limits a page to members of the staff with all `permissions`.

    It raises PermissionDenied for other members. If a setting is wrong, the page names it, with status 500.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if not request.user.has_perms(permissions):
                raise PermissionDenied
            try:
                return view(request, *args, **kwargs)
            except ImproperlyConfigured as error:
                wrong = show(request, "routing/misconfigured.html", "Wrong settings", problem=str(error))
                wrong.status_code = 500
                return wrong

        return strict(admin.site.admin_view(guarded))

    return decorate


def show(request: HttpRequest, template: str, title: str, **context: object) -> TemplateResponse:
    """Return a page of the admin; its template extends `routing/page.html`."""
    return TemplateResponse(request, template, {**admin.site.each_context(request), "title": title, **context})


def miner_address(hotkey: str) -> str:
    """Return the URL of a miner's page."""
    return reverse("admin:routing_miner", args=[quote(hotkey)])


def miner_link(hotkey: str) -> str:
    """Return the link to a miner's page."""
    return format_html('<a href="{}">{}</a>', miner_address(hotkey), hotkey)
