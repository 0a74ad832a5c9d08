"""The project's settings for a server that a browser visits, with a Content-Security-Policy as strict as there is.

Whatever of a page breaks it, an inline script or style or a request elsewhere, the browser says so in its console.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import async_only_middleware

from project.settings import *  # noqa: F403
from project.settings import MIDDLEWARE as USUAL

POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
MIDDLEWARE = ["tests.browser.settings.strictly", *USUAL]


@async_only_middleware
def strictly(answer: Callable[[HttpRequest], Awaitable[HttpResponseBase]]) -> Callable[[HttpRequest], object]:
    """Send the POLICY with each answer."""

    async def with_policy(request: HttpRequest) -> HttpResponseBase:
        response = await answer(request)
        response["Content-Security-Policy"] = POLICY
        return response

    return with_policy
