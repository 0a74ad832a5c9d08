"""The menu of the pages for operators."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from django import template
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse

from routing.pages import MENU

register = template.Library()


@register.inclusion_tag("routing/menu.html", takes_context=True)
def operators_menu(context: dict[str, Any]) -> dict[str, object]:
    """Show links to the pages that the user may see."""
    request: HttpRequest = context["request"]
    pages = []
    for page in MENU:
        if request.user.has_perms(page.permissions):
            with suppress(NoReverseMatch):
                pages.append((page.title, reverse(f"admin:{page.name}")))
    return {"pages": pages, "here": request.path}
