"""What the admin's lists of what miners do have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest

from allowance.plumbing.lists import JOB_OR_HOTKEY, ReadOnlyAdmin
from routing.pages import SEE_MINER


class OfMinersAdmin(ReadOnlyAdmin):
    """The column `hotkey` leads to a miner's page; whoever may not see that gets the mere field instead."""

    mere_field = "miner"

    def get_list_display(self, request: HttpRequest) -> tuple[str, ...]:
        return self._seen(request, self.list_display)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return self._seen(request, self.fields or ())

    def _seen(self, request: HttpRequest, columns: Sequence[Any]) -> tuple[str, ...]:
        name = "hotkey" if request.user.has_perms(SEE_MINER) else self.mere_field
        return tuple(name if column == "hotkey" else column for column in columns)


class SearchedByIndexAdmin(OfMinersAdmin):
    """Found by job, or by the beginning of a hotkey, which no index serves that costs nothing: by whole hotkeys."""

    uuid = "job_uuid"
    search_help_text = JOB_OR_HOTKEY

    def hotkeys(self, term: str) -> list[str]:
        """Return the hotkeys that begin so."""
        raise NotImplementedError

    def search(self, request: HttpRequest, queryset: QuerySet[Any], term: str) -> QuerySet[Any]:
        return queryset.filter(**{f"{self.mere_field}__in": self.hotkeys(term)}) if term else queryset
