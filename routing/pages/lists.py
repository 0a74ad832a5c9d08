"""The base classes of the admin's lists about miners."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest

from allowance.plumbing.lists import JOB_OR_HOTKEY, ReadOnlyAdmin
from routing.pages import SEE_MINER


class OfMinersAdmin(ReadOnlyAdmin):
    """An admin whose column `hotkey` links to the miner's page. Users who may not see that page get the plain field."""

    mere_field = "miner"

    def get_list_display(self, request: HttpRequest) -> tuple[str, ...]:
        return self._seen(request, self.list_display)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return self._seen(request, self.fields or ())

    def _seen(self, request: HttpRequest, columns: Sequence[Any]) -> tuple[str, ...]:
        name = "hotkey" if request.user.has_perms(SEE_MINER) else self.mere_field
        return tuple(name if column == "hotkey" else column for column in columns)


class SearchedByIndexAdmin(OfMinersAdmin):
    """An admin that is searched by job, or by the beginning of a hotkey.

    No cheap index serves a search by beginning, so `hotkeys` finds the whole hotkeys to search for.
    """

    uuid = "job_uuid"
    search_help_text = JOB_OR_HOTKEY

    def hotkeys(self, term: str) -> list[str]:
        """Return the hotkeys that start with `term`."""
        raise NotImplementedError

    def search(self, request: HttpRequest, queryset: QuerySet[Any], term: str) -> QuerySet[Any]:
        return queryset.filter(**{f"{self.mere_field}__in": self.hotkeys(term)}) if term else queryset
