"""The ledger in the admin: read-only pages of its tables."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest

from allowance import clock, ledger, reservations
from allowance.amounts import wei_text
from allowance.models import (
    Account,
    Block,
    ChainLock,
    Follower,
    LedgerCheck,
    ManifestSync,
    Miner,
    NeuronList,
    Reservation,
    ReservationState,
    SourceReport,
    expired_at,
    held_at,
)
from allowance.oversight import fates
from allowance.oversight.fates import Fate
from allowance.plumbing.console import to_the_second
from allowance.plumbing.lists import JOB_OR_HOTKEY, ModelAdmin, ReadOnlyAdmin, link, time_column
from allowance.plumbing.transactions import ServerTime
from allowance.reading import window


@admin.register(NeuronList)
class NeuronListAdmin(ReadOnlyAdmin):
    """Neuron lists. Search by a block at which the list was recorded, or by the beginning of its digest."""

    number = "block__number"
    search_help_text = "the number of a block, or the beginning of a digest"
    heavy = ("hotkeys",)
    list_display = ("digest", "blocks")
    search_fields = ("digest__startswith",)
    fields = ("digest", "blocks", "names")

    @admin.display(description="recorded at")
    def blocks(self, neurons: NeuronList) -> str:
        return link("blocks", Block, neurons__id__exact=neurons.pk)

    @admin.display(description="hotkeys")
    def names(self, neurons: NeuronList) -> str:
        return "\n".join(neurons.hotkeys)


@admin.register(Block)
class BlockAdmin(ReadOnlyAdmin):
    """Blocks. Search by number, or by the beginning of the digest of the neuron list recorded at a block."""

    number = "number"
    search_help_text = "the number of a block, or the beginning of the digest of a neuron list"
    list_display = ("number", "minted", "stake_share", "seconds", "brought")
    list_filter = ("timestamp", ("neurons", admin.EmptyFieldListFilter))
    linked = ("neurons__id__exact",)
    search_fields = ("neurons__digest__startswith",)
    fields = ("number", "minted", "stake_share", "seconds", "neurons")

    minted = time_column("timestamp", "minted")

    @admin.display(description="seconds per executor")
    def seconds(self, block: Block) -> str:
        return "unknown until the next block is recorded" if block.ns is None else f"{ledger.to_seconds(block.ns):.3f}"

    @admin.display(description="neurons")
    def brought(self, block: Block) -> str:
        return "unchanged" if block.neurons_id is None else link("new list", NeuronList, block.neurons_id)


@admin.register(ManifestSync)
class ManifestSyncAdmin(ReadOnlyAdmin):
    """Manifest syncs. Search by block, or by the beginning of a digest."""

    number = "block"
    search_help_text = "the number of a block, or the beginning of a digest"
    heavy = ("axons", "executors")
    list_display = ("block", "digest")
    search_fields = ("digest__startswith",)
    fields = ("block", "digest", "answers")

    @admin.display(description="answers")
    def answers(self, sync: ManifestSync) -> str:
        return "\n".join(
            f"{hotkey} at {axon['address']} port {axon['port']}: "
            + (", ".join(f"{n} {c}" for c, n in sync.executors.get(hotkey, {}).items()) or "no executors")
            for hotkey, axon in sync.axons.items()
        )


@admin.register(Miner)
class MinerAdmin(ReadOnlyAdmin):
    """Miners. Search by the beginning of a hotkey, or by address."""

    list_display = ("hotkey", "registered", "collateral", "address", "port")
    list_filter = (("address", admin.EmptyFieldListFilter),)
    ordering = ("hotkey",)
    search_fields = ("hotkey__startswith", "address__exact")
    search_help_text = "the beginning of a hotkey, or a whole address"
    fields = ("hotkey", "registered", "collateral", "address", "ip_version", "port", "presence", "accounts")

    @admin.display(description="registered", boolean=True)
    def registered(self, miner: Miner) -> bool:
        return ledger.present(miner.presence)

    @admin.display(description="collateral", ordering="wei")
    def collateral(self, miner: Miner) -> str:
        return wei_text(miner.wei)

    @admin.display(description="accounts")
    def accounts(self, miner: Miner) -> str:
        return link("accounts", Account, miner__hotkey__exact=miner.pk)


@admin.register(Account)
class AccountAdmin(ReadOnlyAdmin):
    """Accounts. Search by the beginning of a hotkey. An account's page computes its free, held and spent seconds."""

    heavy = ("counts", "held", "spent")
    list_display = ("hotkey", "executor_class", "executors", "voided_before")
    list_filter = ("executor_class",)
    linked = ("miner__hotkey__exact",)
    ordering = ("executor_class", "miner_id")
    search_fields = ("miner__hotkey__startswith",)
    search_help_text = "the beginning of a hotkey"
    fields = ("miner", "executor_class", "executors", "counts", "voided_before", "seconds", "taken")

    @admin.display(description="miner", ordering="miner_id")
    def hotkey(self, account: Account) -> str:
        return account.miner_id

    @admin.display(description="seconds")
    def seconds(self, account: Account) -> str:
        """Return the free, held and spent seconds of the blocks that a job starting now may use."""
        expired = account.reservation_set.filter(expired_at(clock.now())).values_list("pk", "blocks")
        balance = reservations.tidy(account.balance, dict(expired))
        totals = fates.totals(balance, window(None))
        parts = {fate: ledger.to_seconds(totals[fate].ns) for fate in (Fate.FREE, Fate.HELD, Fate.SPENT)}
        lines = [f"{seconds:.3f} {fate}" for fate, seconds in parts.items()]
        return "\n".join([*lines, f"{sum(parts.values()):.3f} earned, from the blocks that a job may use now"])

    @admin.display(description="reservations")
    def taken(self, account: Account) -> str:
        return link("reservations", Reservation, account__id__exact=account.pk)


class StateFilter(admin.SimpleListFilter):
    """A filter by the state as of now. The row of an expired reservation may still have the state held."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin) -> list[tuple[str, str]]:
        return [(state.value, state.label) for state in ReservationState]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        now = clock.now()
        match self.value():
            case None:
                return queryset
            case ReservationState.HELD:
                return queryset.filter(held_at(now))
            case ReservationState.EXPIRED:
                return queryset.filter(Q(state=ReservationState.EXPIRED) | expired_at(now))
            case state:
                return queryset.filter(state=state)


@admin.register(Reservation)
class ReservationAdmin(ReadOnlyAdmin):
    """Reservations. Search by job, or by the beginning of a hotkey."""

    uuid = "job_uuid"
    search_help_text = JOB_OR_HOTKEY
    heavy = ("account__counts", "account__held", "account__spent")
    ordering = ("-created_at",)
    sortable_by = ("held_until", "account_link", "job_uuid", "created")
    list_display = ("id", "state_now", "held_until", "block_count", "account_link", "job_uuid", "created")
    list_filter = (StateFilter, "account__executor_class", "created_at")
    linked = ("account__id__exact",)
    list_select_related = ("account",)
    search_fields = ("account__miner__hotkey__startswith",)
    fields = ("id", "account_link", "job_uuid", "state_now", "created", "held_until", "ended", "blocks")
    created = time_column("created_at", "created")
    ended = time_column("ended_at", "ended")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Reservation]:
        rows: QuerySet[Reservation] = super().get_queryset(request).annotate(read_at=ServerTime())
        return rows

    @admin.display(description="state")
    def state_now(self, reservation: Reservation) -> str:
        return reservation.state_at(_read_at(reservation)).label

    @admin.display(description="held until", ordering="expires_at")
    def held_until(self, reservation: Reservation) -> str:
        now = _read_at(reservation)
        until = to_the_second(reservation.expires_at)
        held = reservation.state_at(now) is ReservationState.HELD
        return f"{until} ({(reservation.expires_at - now).total_seconds():.0f} s left)" if held else until

    @admin.display(description="blocks")
    def block_count(self, reservation: Reservation) -> int:
        return len(reservation.blocks)

    @admin.display(description="account", ordering="account_id")
    def account_link(self, reservation: Reservation) -> str:
        return link(reservation.account, Account, reservation.account_id)


def _read_at(reservation: Any) -> dt.datetime:
    """Return the time at which a row of the list was read."""
    return clock.now(by_server=reservation.read_at)


@admin.register(LedgerCheck)
class LedgerCheckAdmin(ReadOnlyAdmin):
    """Checks of the ledger, newest first."""

    list_display = ("made", "differences", "left", "repaired", "accounts", "reservations", "seconds")
    ordering = ("-at",)
    fields = (*list_display, "found")

    made = time_column("at", "time")

    @admin.display(description="found")
    def found(self, check: LedgerCheck) -> str:
        return "\n".join(check.examples) or "the ledger agrees with its history"


@admin.register(Follower)
class FollowerAdmin(ReadOnlyAdmin):
    """The row of the chain follower."""

    list_display = ("netuid", "hotkey", "source", "leader", "since", "seen", "head")
    fields = ("genesis", *list_display, "head_seen")

    since = time_column("leads_since", "leads since")
    seen = time_column("seen_at", "last heartbeat")
    head_seen = time_column("head_at", "newest finalized block first seen")


@admin.register(SourceReport)
class SourceReportAdmin(ReadOnlyAdmin):
    """The reports of the chain follower about its sources. Their details are shown on the page Sources."""

    heavy = ("detail",)
    ordering = ("name",)
    list_display = ("name", "adapter", "good", "failures", "failed")
    fields = (*list_display, "error", "detail_text")

    good = time_column("good_at", "last good answer")
    failed = time_column("failed_at", "failing since")

    @admin.display(description="detail")
    def detail_text(self, report: SourceReport) -> str:
        return json.dumps(report.detail, indent=1, ensure_ascii=False)


# This row has no useful columns. Its existence shows that a chain follower has recorded something.
admin.site.register(ChainLock, ReadOnlyAdmin)
