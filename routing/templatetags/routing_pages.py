"""The menu of the pages for operators, and the filters that format amounts."""

from __future__ import annotations

from typing import Any

from django import template
from django.http import HttpRequest
from django.urls import reverse

from allowance.interface import to_seconds, wei_text
from routing.pages import MENU

register = template.Library()


@register.inclusion_tag("routing/menu.html", takes_context=True)
def operators_menu(context: dict[str, Any]) -> dict[str, object]:
    """Show links to the pages that the user may see."""
    request: HttpRequest = context["request"]
    pages = [(page.title, reverse(f"admin:{page.name}")) for page in MENU if request.user.has_perms(page.permissions)]
    return {"pages": pages, "here": request.path}


@register.filter
def seconds(ns: int) -> str:
    """Convert nanoseconds to seconds with one decimal."""
    return f"{to_seconds(ns):.1f} s"


register.filter("wei_text", wei_text)
