"""The ledger in the admin: all of it to be read, none of it to be changed by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlencode
from uuid import UUID

from django.conf import settings
from django.contrib import admin
from django.contrib.admin.exceptions import DisallowedModelAdminLookup
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.utils import quote
from django.contrib.admin.views.main import SEARCH_VAR
from django.core.paginator import Paginator
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.urls import URLPattern, reverse
from django.utils import timezone
from django.utils.html import format_html

from allowance import ledger
from allowance.console import to_the_second
from allowance.models import (
    Account,
    Block,
    ChainLock,
    LedgerCheck,
    ManifestSync,
    Miner,
    NeuronList,
    Reservation,
    ReservationState,
)
from allowance.state import held_at, lapsed_at, state_at, window

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin

MAX_LISTED = 10_000
"""A list ends there: counting all rows of a big table takes too long. Search and filters reach the others."""

POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
"""What pages may load and do: nothing from elsewhere, nothing inline."""

SUFFIXES = ("", "__exact", "__isnull", "__isempty", "__gte", "__lt")
"""The lookups of Django's filters."""


def strict(view: Callable[..., Any]) -> Callable[..., Any]:
    """Send POLICY with what a view answers, unless it or the site has a policy of its own.

    Middleware that sends one may leave ours in place, so there must be none; middleware that overwrites does so.
    """

    @wraps(view)
    def strictly(*args: Any, **kwargs: Any) -> Any:
        response = view(*args, **kwargs)
        names = (name.rpartition(".")[2].lower() for name in settings.MIDDLEWARE)
        if not any("csp" in name or "contentsecuritypolicy" in name for name in names):
            response.headers.setdefault("Content-Security-Policy", POLICY)
        return response

    return strictly


def never(self: object, request: HttpRequest, obj: Model | None = None) -> bool:
    """Permit nobody: rows follow from each other, or from what happened; a change by hand makes them false."""
    return False


class ReadOnlyAdmin(ModelAdmin):
    """Pages that are read only, and as fast with many rows as with few.

    No `date_hierarchy`: it truncates the date of every row. No facets: they count all rows once for each choice.
    """

    exact: tuple[str, Callable[[str], object]] | None = None
    """The indexed column that a search term names if it parses: `__exact` of Django would cast the column instead."""

    heavy: tuple[str, ...] = ()
    """Columns that only the page of one row needs."""

    linked: tuple[str, ...] = ()
    """Lookups that links to the list have."""

    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    ordering: ClassVar[tuple[str, ...]] = ("-pk",)
    has_add_permission = has_change_permission = has_delete_permission = never

    def get_urls(self) -> list[URLPattern]:
        urls = super().get_urls()
        for url in urls:
            url.callback = strict(url.callback)
        return urls

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Allow what the filters and links to the list ask for. Others, which Django allows, may fail."""
        names = (getattr(each, "parameter_name", each) for each in self.list_filter)
        columns = [name[0] if isinstance(name, tuple) else name for name in names]
        return lookup in {*self.linked, *(f"{column}{suffix}" for column in columns for suffix in SUFFIXES)}

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """Return the list that an address asks for. One that no database can look for is told so, as Django does."""
        for name, values in request.GET.lists():  # what is searched for is checked by Django itself
            if "\0" in name or (name != SEARCH_VAR and any("\0" in value for value in values)):
                raise IncorrectLookupParameters
        try:
            return super().get_changelist_instance(request)
        except (OverflowError, DisallowedModelAdminLookup) as error:
            raise IncorrectLookupParameters from error

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """Return the row of a page; PostgreSQL can't even be asked for a text with NUL."""
        return None if "\0" in object_id else super().get_object(request, object_id, from_field)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).defer(*self.heavy)

    def get_paginator(self, request: HttpRequest, queryset: QuerySet[Any], *args: Any, **kwargs: Any) -> Paginator[Any]:
        return super().get_paginator(request, queryset[:MAX_LISTED], *args, **kwargs)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        if self.exact is not None:
            column, parse = self.exact
            try:
                return queryset.filter(**{column: parse(search_term.strip())}), False
            except ValueError:
                pass
        return super().get_search_results(request, queryset, search_term)


def link(text: object, model: type[Model], pk: object = None, **query: object) -> str:
    """Return the link to a row's page, or, without `pk`, to the list of its kind with `query`."""
    page = f"admin:{model._meta.app_label}_{model._meta.model_name}_"
    address = reverse(page + "changelist") if pk is None else reverse(page + "change", args=[quote(str(pk))])
    return format_html('<a href="{}">{}</a>', address + (f"?{urlencode(query)}" if query else ""), text)


@admin.register(NeuronList)
class NeuronListAdmin(ReadOnlyAdmin):
    """Found by a block that brought the list, or by digest."""

    exact = ("block__number", int)
    heavy = ("hotkeys",)
    list_display = ("digest", "blocks")
    search_fields = ("digest__startswith",)
    fields = ("digest", "blocks", "names")

    @admin.display(description="brought by")
    def blocks(self, neurons: NeuronList) -> str:
        return link("blocks", Block, neurons__id__exact=neurons.pk)

    @admin.display(description="hotkeys")
    def names(self, neurons: NeuronList) -> str:
        return "\n".join(neurons.hotkeys)


@admin.register(Block)
class BlockAdmin(ReadOnlyAdmin):
    """Found by number, or by the digest of the neuron list that it brought."""

    exact = ("number", int)
    list_display = ("number", "minted", "stake_share", "seconds", "brought")
    list_filter = ("timestamp", ("neurons", admin.EmptyFieldListFilter))
    linked = ("neurons__id__exact",)
    search_fields = ("neurons__digest__startswith",)
    fields = ("number", "minted", "stake_share", "seconds", "neurons")

    @admin.display(description="minted", ordering="timestamp")
    def minted(self, block: Block) -> str:
        return to_the_second(block.timestamp)

    @admin.display(description="seconds per executor")
    def seconds(self, block: Block) -> str:
        return "not known before the next block" if block.ns is None else f"{ledger.to_seconds(block.ns):.3f}"

    @admin.display(description="neurons")
    def brought(self, block: Block) -> str:
        return "as before" if block.neurons_id is None else link("new list", NeuronList, block.neurons_id)


@admin.register(ManifestSync)
class ManifestSyncAdmin(ReadOnlyAdmin):
    """Found by block, or by digest."""

    exact = ("block", int)
    heavy = ("axons", "executors")
    list_display = ("block", "digest")
    search_fields = ("digest__startswith",)
    fields = ("block", "digest", "answers")

    @admin.display(description="answers")
    def answers(self, sync: ManifestSync) -> str:
        return "\n".join(
            f"{hotkey} at {axon['address']} port {axon['port']}: "
            + (", ".join(f"{n} {c}" for c, n in sync.executors.get(hotkey, {}).items()) or "none")
            for hotkey, axon in sync.axons.items()
        )


@admin.register(Miner)
class MinerAdmin(ReadOnlyAdmin):
    """Found by the beginning of a hotkey, or by address."""

    list_display = ("hotkey", "registered", "wei", "address", "port")
    list_filter = (("address", admin.EmptyFieldListFilter),)
    ordering = ("hotkey",)
    search_fields = ("hotkey__startswith", "address__exact")
    fields = ("hotkey", "registered", "wei", "address", "ip_version", "port", "presence", "accounts")

    @admin.display(description="registered", boolean=True)
    def registered(self, miner: Miner) -> bool:
        return ledger.present(miner.presence)

    @admin.display(description="accounts")
    def accounts(self, miner: Miner) -> str:
        return link("accounts", Account, miner__hotkey__exact=miner.pk)


@admin.register(Account)
class AccountAdmin(ReadOnlyAdmin):
    """Found by the beginning of a hotkey. What is free, held and spent takes arithmetic: see an account's page."""

    heavy = ("counts", "held", "spent")
    list_display = ("hotkey", "executor_class", "executors", "voided_before")
    list_filter = ("executor_class",)
    linked = ("miner__hotkey__exact",)
    ordering = ("executor_class", "miner_id")
    search_fields = ("miner__hotkey__startswith",)
    fields = ("miner", "executor_class", "executors", "counts", "voided_before", "seconds", "taken")

    @admin.display(description="miner", ordering="miner_id")
    def hotkey(self, account: Account) -> str:
        return account.miner_id

    @admin.display(description="seconds")
    def seconds(self, account: Account) -> str:
        """Return what a job that starts now could have, and who has the rest."""
        balance = account.balance
        lapsed = account.reservation_set.filter(lapsed_at(timezone.now()))
        for blocks in lapsed.values_list("blocks", flat=True):
            balance = ledger.free_again(balance, blocks)
        (standing,) = ledger.survey(window(None), [balance])
        held = ledger.to_seconds(standing.unspent - standing.free)
        free, spent, earned = (ledger.to_seconds(ns) for ns in (standing.free, standing.spent, standing.earned))
        return f"{free:.3f} free\n{held:.3f} held\n{spent:.3f} spent\n{earned:.3f} earned in the window of a job"

    @admin.display(description="reservations")
    def taken(self, account: Account) -> str:
        return link("reservations", Reservation, account__id__exact=account.pk)


class StateFilter(admin.SimpleListFilter):
    """The states as of now: a row that nobody has touched since it lapsed still says held."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin) -> list[tuple[str, str]]:
        return [(state.value, state.label) for state in ReservationState]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        now = timezone.now()
        match self.value():
            case None:
                return queryset
            case ReservationState.HELD:
                return queryset.filter(held_at(now))
            case ReservationState.LAPSED:
                return queryset.filter(Q(state=ReservationState.LAPSED) | lapsed_at(now))
            case state:
                return queryset.filter(state=state)


@admin.register(Reservation)
class ReservationAdmin(ReadOnlyAdmin):
    """Found by job, or by the beginning of a hotkey."""

    exact = ("job_uuid", UUID)
    heavy = ("account__counts", "account__held", "account__spent")
    list_display = ("id", "state_now", "held_until", "block_count", "account_link", "job_uuid", "created")
    list_filter = (StateFilter, "account__executor_class", "created_at")
    linked = ("account__id__exact",)
    list_select_related = ("account",)
    search_fields = ("account__miner__hotkey__startswith",)
    fields = ("id", "account_link", "job_uuid", "state_now", "created", "held_until", "ended", "blocks")

    @admin.display(description="state")
    def state_now(self, reservation: Reservation) -> str:
        return state_at(reservation, timezone.now()).label

    @admin.display(description="held until", ordering="expires_at")
    def held_until(self, reservation: Reservation) -> str:
        now = timezone.now()
        until = to_the_second(reservation.expires_at)
        held = state_at(reservation, now) is ReservationState.HELD
        return f"{until} ({(reservation.expires_at - now).total_seconds():.0f} s left)" if held else until

    @admin.display(description="blocks")
    def block_count(self, reservation: Reservation) -> int:
        return len(reservation.blocks)

    @admin.display(description="account", ordering="account_id")
    def account_link(self, reservation: Reservation) -> str:
        return link(reservation.account, Account, reservation.account_id)

    @admin.display(description="created", ordering="created_at")
    def created(self, reservation: Reservation) -> str:
        return to_the_second(reservation.created_at)

    @admin.display(description="ended")
    def ended(self, reservation: Reservation) -> str:
        return "-" if reservation.ended_at is None else to_the_second(reservation.ended_at)


@admin.register(LedgerCheck)
class LedgerCheckAdmin(ReadOnlyAdmin):
    """The newest first."""

    list_display = ("made", "differences", "left", "repaired", "accounts", "reservations", "seconds")
    ordering = ("-at",)
    fields = (*list_display, "found")

    @admin.display(description="time", ordering="at")
    def made(self, check: LedgerCheck) -> str:
        return to_the_second(check.at)

    @admin.display(description="found")
    def found(self, check: LedgerCheck) -> str:
        return "\n".join(check.examples) or "the ledger is what its history says"


# There is nothing to read in it but that it is there: a follower has recorded something.
admin.site.register(ChainLock, ReadOnlyAdmin)
