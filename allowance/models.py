"""The ledger's tables.

Block, NeuronList, ManifestSync and Reservation record history. The step functions of Miner and Account, and an
account's balance, are derived from it; `check_ledger` recomputes them.
"""

from __future__ import annotations

import datetime as dt
import secrets
from typing import Any, Self

from django.db import models
from django.db.models import Q

from allowance.fields import BitsField, StepsField, WeiField
from allowance.ledger import Balance
from allowance.plumbing.transactions import ChangedField, ChangedQuerySet
from allowance.types import HOTKEY_LENGTH, RESERVATION_ID_BITS, RESERVATION_IDS, RESERVATION_MARGIN
from allowance.types import Miner as MinerValue


def new_version() -> int:
    """Return a random version, unique in practice. A counter would repeat versions after a backup is restored."""
    return secrets.randbits(63)


def new_reservation_id() -> int:
    """Return a random id above 0, unique in practice. A counter would repeat ids after a backup is restored.

    The id fits in 53 bits, because JSON readers in other languages lose precision beyond that.
    """
    while not (drawn := secrets.randbits(RESERVATION_ID_BITS)):
        pass
    return drawn


class NeuronList(models.Model):
    """The hotkeys registered at a block. Blocks with the same neurons share one row."""

    digest = models.CharField(max_length=64, unique=True)
    hotkeys: models.JSONField[list[str], list[str]] = models.JSONField()

    def __str__(self) -> str:
        return f"{len(self.hotkeys)} neurons ({self.digest[:8]})"


HASH_LENGTH = 66
"""The length in characters of a block's hash: 0x, and 32 bytes in hexadecimal digits."""


class Block(models.Model):
    """A minted block. One executor gave us `ns` nanoseconds for it; None until the next block is recorded.

    `hash` and `parent_hash` are as the chain follower read them. They are empty if another program recorded the block.
    """

    number = models.PositiveBigIntegerField(primary_key=True)
    timestamp = models.DateTimeField()
    stake_share = models.FloatField()
    ns = models.PositiveBigIntegerField(null=True)
    neurons = models.ForeignKey(
        NeuronList, on_delete=models.PROTECT, null=True, help_text="Left out: the same as in the block before."
    )
    hash = models.CharField(max_length=HASH_LENGTH, blank=True, default="")
    parent_hash = models.CharField(max_length=HASH_LENGTH, blank=True, default="")

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=Q(stake_share__gte=0, stake_share__lte=1), name="block_stake_share_is_a_share"
            ),
        )

    def __str__(self) -> str:
        return f"Block {self.number}"


class ManifestSync(models.Model):
    """The answers of all miners to one round of requests for their manifests, as received.

    `silent` lists the silences: [class, silent miners, miners that declared executors before]. The class is None for
    all classes together.
    """

    block = models.PositiveBigIntegerField()
    digest = models.CharField(max_length=64)
    axons: models.JSONField[dict[str, dict[str, str | int]], dict[str, dict[str, str | int]]] = models.JSONField()
    executors: models.JSONField[dict[str, dict[str, int]], dict[str, dict[str, int]]] = models.JSONField()
    silent: models.JSONField[list[list[Any]], list[list[Any]]] = models.JSONField(default=list, blank=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=("block", "digest"), name="manifest_sync_recorded_once"),)

    def __str__(self) -> str:
        return f"Manifests at block {self.block}"


class Miner(models.Model):
    """A neuron of the subnet: its address, its collateral, and the blocks at which it is registered (`presence`)."""

    hotkey = models.CharField(max_length=HOTKEY_LENGTH, primary_key=True)
    address = models.CharField(max_length=255, blank=True)
    ip_version = models.PositiveSmallIntegerField(default=4)
    port = models.PositiveIntegerField(default=0)
    wei = WeiField(default=0, verbose_name="collateral in Wei")
    presence = StepsField(default=tuple)

    class Meta:
        constraints = (models.CheckConstraint(condition=~Q(hotkey=""), name="miner_has_a_hotkey"),)

    def __str__(self) -> str:
        return self.hotkey

    @property
    def value(self) -> MinerValue:
        """The row as a public `allowance.types.Miner`."""
        return MinerValue(self.address, self.ip_version, self.port, self.hotkey)


class AccountQuerySet(ChangedQuerySet):
    def in_class(self, executor_class: object) -> Self:
        return self.filter(executor_class=executor_class)

    def locked(self, *, skip: bool = False) -> Self:
        """Lock the rows until the transaction ends: wait for those that others have locked, or `skip` them.

        The lock lets others insert reservations that refer to the account, but not change it.
        """
        return self.select_for_update(skip_locked=skip, of=("self",), no_key=True)


class Account(models.Model):
    """The allowance of one miner in one executor class.

    `counts` are the declared executors as a step function of the block. `voided_before` is the block of the last
    manifest with fewer executors: older blocks are voided. `held` and `spent` are sets of blocks: bit k stands for
    block `base + k`. A new `version` is drawn with each change that a reservation depends on: of the account, its
    reservations, or its miner's registration or address.
    """

    miner = models.ForeignKey(Miner, on_delete=models.PROTECT, db_index=False)
    executor_class = models.CharField(max_length=64)
    executors = models.PositiveIntegerField(default=0)
    counts = StepsField(default=tuple)
    voided_before = models.PositiveBigIntegerField(default=0)
    base = models.PositiveBigIntegerField(default=0)
    held = BitsField(default=0)
    spent = BitsField(default=0)
    version = models.BigIntegerField(default=new_version, editable=False)
    changed = ChangedField()

    objects = AccountQuerySet.as_manager()

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("executor_class", "miner"), name="one_account_per_miner_and_class"),
        )
        indexes = (models.Index(fields=("miner",), name="account_of_miner"),)

    def __str__(self) -> str:
        return f"{self.miner_id} {self.executor_class}"

    @property
    def balance(self) -> Balance:
        """The row as a value for `allowance.ledger`. Reads the miner's row too."""
        miner = self.miner
        return Balance(
            miner.hotkey,
            miner.address,
            miner.ip_version,
            miner.port,
            miner.wei,
            miner.presence,
            self.executor_class,
            self.executors,
            self.counts,
            self.voided_before,
            self.base,
            self.held,
            self.spent,
        )


class ReservationState(models.TextChoices):
    HELD = "held"
    SPENT = "spent"
    RELEASED = "released"
    EXPIRED = "expired"


def held_at(now: dt.datetime) -> Q:
    """Return the filter for reservations that are held at `now` and have not expired."""
    return Q(state=ReservationState.HELD, expires_at__gt=now)


def expired_at(now: dt.datetime) -> Q:
    """Return the filter for reservations that expired by `now` and whose row still has the state held."""
    return Q(state=ReservationState.HELD, expires_at__lte=now)


class Reservation(models.Model):
    """Blocks of one account that are held for a job, and how the reservation ended.

    A held reservation is expired from `expires_at` on, even if the `state` in its row is still held: see `state_at`.
    Ids are random and in no order.
    """

    id = models.BigIntegerField(primary_key=True, default=new_reservation_id, editable=False)
    account = models.ForeignKey(Account, on_delete=models.PROTECT, db_index=False)
    job_uuid = models.UUIDField(null=True, blank=True)
    blocks: models.JSONField[list[int], list[int]] = models.JSONField()
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    state = models.CharField(max_length=8, choices=ReservationState.choices, default=ReservationState.HELD)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = (
            models.CheckConstraint(condition=Q(id__gt=0, id__lt=RESERVATION_IDS), name="reservation_id_fits_in_json"),
            models.CheckConstraint(
                condition=Q(state__in=ReservationState.values), name="reservation_has_a_known_state"
            ),
            models.CheckConstraint(
                condition=Q(state=ReservationState.HELD, ended_at=None)
                | (~Q(state=ReservationState.HELD) & Q(ended_at__isnull=False)),
                name="reservation_ends_once",
            ),
            models.CheckConstraint(condition=Q(expires_at__gt=models.F("created_at")), name="reservation_holds"),
        )
        indexes = (
            models.Index(fields=("account", "expires_at"), name="reservation_held", condition=Q(state="held")),
            models.Index(fields=("-created_at",), name="reservation_newest"),
            models.Index(fields=("account", "-created_at"), name="reservation_of_account"),
            models.Index(fields=("job_uuid",), name="reservation_of_job"),
            models.Index(fields=("ended_at",), name="reservation_ended", condition=Q(ended_at__isnull=False)),
            models.Index(fields=("-expires_at",), name="reservation_expired", condition=Q(state="expired")),
        )

    def __str__(self) -> str:
        return f"Reservation {self.pk}"

    @property
    def seconds(self) -> int:
        """The length of the job, in seconds."""
        return round((self.expires_at - self.created_at - RESERVATION_MARGIN).total_seconds())

    def state_at(self, now: dt.datetime) -> ReservationState:
        """Return the state at `now`."""
        state = ReservationState(self.state)
        expired = state is ReservationState.HELD and self.expires_at <= now
        return ReservationState.EXPIRED if expired else state


class ChainLock(models.Model):
    """The single row that guards all data that follows from the chain (see allowance.locks).

    A transaction that changes such data draws a new `version`, so that routers read the chain again.
    """

    version = models.BigIntegerField(default=new_version)

    class Meta:
        constraints = (models.CheckConstraint(condition=Q(pk=1), name="one_chain_lock"),)

    def __str__(self) -> str:
        return "chain lock"


class Follower(models.Model):
    """The single row of the chain follower: what it follows, which process leads, and where the chain is.

    `genesis`, `netuid` and `hotkey` are those of the recorded blocks. `term` is a random number that the leading
    process has drawn: each transaction of the follower compares it, so a process that has lost the lead writes nothing.
    """

    genesis = models.CharField(max_length=HASH_LENGTH)
    netuid = models.PositiveIntegerField()
    hotkey = models.CharField("validator's hotkey", max_length=HOTKEY_LENGTH)
    source = models.CharField(max_length=255)
    term = models.BigIntegerField(default=new_version)
    leader = models.CharField(max_length=255, help_text="The host and the process id.")
    leads_since = models.DateTimeField()
    seen_at = models.DateTimeField("last heartbeat")
    head = models.PositiveBigIntegerField("newest finalized block", null=True)
    head_at = models.DateTimeField("when the newest finalized block was first seen", null=True)

    class Meta:
        verbose_name = "chain follower"
        constraints = (models.CheckConstraint(condition=Q(pk=1), name="one_follower"),)

    def __str__(self) -> str:
        return f"Follower of subnet {self.netuid}"


class SourceReport(models.Model):
    """What the chain follower last learned from a source, such as `blocks`, `manifests`, `collateral` or `receipts`.

    `error` is empty if the last attempt succeeded. `detail` depends on the source; see the module that reports it.
    """

    name = models.CharField(max_length=16, primary_key=True)
    adapter = models.CharField(max_length=255)
    good_at = models.DateTimeField("last good answer", null=True)
    failed_at = models.DateTimeField("first failure since the last good answer", null=True)
    failures = models.PositiveIntegerField("failures since the last good answer", default=0)
    error = models.TextField(blank=True)
    detail: models.JSONField[dict[str, Any], dict[str, Any]] = models.JSONField(default=dict, blank=True)

    class Meta:
        verbose_name = "source"

    def __str__(self) -> str:
        return self.name


class LedgerCheck(models.Model):
    """The result of a run of the command `check_ledger`. `examples` are the first differences, as text."""

    at = models.DateTimeField()
    seconds = models.FloatField(help_text="How long it took.")
    accounts = models.PositiveIntegerField()
    reservations = models.PositiveBigIntegerField()
    differences = models.PositiveIntegerField()
    left = models.PositiveIntegerField(help_text="Differences after the repair, if there was one.")
    repaired = models.BooleanField(default=False)
    examples: models.JSONField[list[str], list[str]] = models.JSONField(default=list)

    class Meta:
        indexes = (models.Index(fields=("-at",), name="ledger_check_newest"),)

    def __str__(self) -> str:
        return f"Check of the ledger: {self.differences or 'no'} differences"
