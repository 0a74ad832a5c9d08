"""The public service of the ledger. Each method has a coroutine with the prefix `a` that does the same."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from django.db.models import Max

from allowance import chain, clock, ledger, reading, reservations, validation
from allowance.causes import causes
from allowance.ledger import Standing
from allowance.models import Account, Block
from allowance.models import Miner as MinerRow
from allowance.plumbing.connections import renews_connection
from allowance.plumbing.threads import coroutine_twin
from allowance.types import EXECUTOR_CLASSES, NO_ADDRESS, Miner, NoBlockRecorded, NotEnoughAllowanceException


@renews_connection
class Allowance:
    """The service that finds, reserves, spends and releases allowance, and records chain data. It holds no state."""

    def find_miners_with_allowance(
        self, *, allowance_seconds: float, executor_class: str, job_start_block: int
    ) -> list[tuple[str, float]]:
        """Return (hotkey, available seconds) of the registered miners that have `allowance_seconds`. Never empty.

        The miners are ordered by earliest free block, then highest free share of the total, then most free seconds. A
        job may use blocks from `job_start_block` - BLOCK_EXPIRY on, but none more than KEPT_BLOCKS before the newest
        block: no running job can have started early enough to need them.

        Raises NotEnoughAllowanceException if no miner has enough, JobTooLong above an hour, ValueError for bad input.
        """
        seconds = validation.seconds(allowance_seconds)
        start = validation.block_number(job_start_block)
        balances = reading.read(executor_class, clock.now()).balances
        standings = ledger.standings(reading.window(start), balances.values())
        need = ledger.to_ns(seconds)
        found = [(s.balance.hotkey, ledger.to_seconds(s.free)) for s in standings if s.free >= need]
        if not found:
            known = executor_class in EXECUTOR_CLASSES
            asked = [standing.balance for standing in standings]
            named = causes(executor_class, asked, asked) if known else ()
            raise not_enough(seconds, standings, causes=named)
        return found

    def reserve_allowance(
        self,
        *,
        miner: str,
        executor_class: str,
        allowance_seconds: float,
        job_start_block: int,
        job_uuid: UUID | str | None = None,
    ) -> tuple[int, list[int]]:
        """Reserve whole blocks of a miner, the oldest free first, and return (reservation id, blocks).

        The blocks are held for `allowance_seconds` and 100 s more. Raises CannotReserveAllowanceException if the miner
        has too little allowance, JobTooLong above an hour, ValueError for bad input.
        """
        reservation = reservations.reserve(
            miner=validation.hotkey(miner),
            executor_class=executor_class,
            seconds=validation.seconds(allowance_seconds),
            job_start_block=validation.block_number(job_start_block),
            job_uuid=None if job_uuid is None else validation.job_uuid(job_uuid),
        )
        return reservation.pk, reservation.blocks

    def spend_allowance(self, reservation_id: int) -> None:
        """Spend a held reservation. Raises ReservationNotFound, ReservationAlreadySpent or ReservationExpired."""
        reservations.spend(reservation_id)

    def undo_allowance_reservation(self, reservation_id: int) -> None:
        """Release a held reservation. Raises ReservationNotFound, ReservationAlreadySpent or ReservationExpired."""
        reservations.release(reservation_id)

    def get_current_block(self) -> int:
        """Return the number of the newest recorded block. Raises NoBlockRecorded if there is none."""
        newest: int | None = Block.objects.aggregate(newest=Max("number"))["newest"]
        if newest is None:
            raise NoBlockRecorded
        return newest

    def get_manifests(self) -> dict[str, dict[str, int]]:
        """Return each miner's executor counts by class, from its newest manifest."""
        manifests: dict[str, dict[str, int]] = {}
        rows = Account.objects.order_by("miner", "executor_class").values_list("miner", "executor_class", "executors")
        for miner, executor_class, executors in rows:
            manifests.setdefault(miner, {})[executor_class] = executors
        return manifests

    def miners(self) -> list[Miner]:
        """Return the miners that are registered at the newest block and can be reached, ordered by hotkey."""
        rows = MinerRow.objects.exclude(address__in=NO_ADDRESS).order_by("hotkey")
        return [row.value for row in rows if ledger.present(row.presence) and row.value.is_reachable]

    def record_block(
        self, *, number: int, timestamp: dt.datetime, stake_share: float, hotkeys: Iterable[str] | None = None
    ) -> None:
        """Record a minted block; see `allowance.chain.record_block`."""
        chain.record_block(number=number, timestamp=timestamp, stake_share=stake_share, hotkeys=hotkeys)

    def record_manifests(
        self, *, block: int, axons: Mapping[str, Mapping[str, object]], executors: Mapping[str, Mapping[str, int]]
    ) -> None:
        """Record a manifest sync; see `allowance.chain.record_manifests`."""
        chain.record_manifests(block=block, axons=axons, executors=executors)

    def record_collateral(self, *, hotkey: str, wei: int | str) -> None:
        """Record a miner's collateral in Wei; see `allowance.chain.record_collateral`."""
        chain.record_collateral(hotkey=hotkey, wei=wei)

    afind_miners_with_allowance = coroutine_twin(find_miners_with_allowance)
    areserve_allowance = coroutine_twin(
        reserve_allowance, release_undelivered=lambda reserved: reservations.release_undelivered(reserved[0])
    )
    aspend_allowance = coroutine_twin(spend_allowance)
    aundo_allowance_reservation = coroutine_twin(undo_allowance_reservation)
    aget_current_block = coroutine_twin(get_current_block)
    aget_manifests = coroutine_twin(get_manifests)
    aminers = coroutine_twin(miners)
    arecord_block = coroutine_twin(record_block)
    arecord_manifests = coroutine_twin(record_manifests)
    arecord_collateral = coroutine_twin(record_collateral)


def not_enough(
    seconds: float,
    standings: Sequence[Standing],
    *,
    excluded: int = 0,
    instead: str = "exclude fewer miners",
    causes: Sequence[str] = (),
) -> NotEnoughAllowanceException:
    """Return the exception that names the miners in `standings` with the most available and the most unspent allowance.

    `excluded` is the number of miners that the caller excluded. `instead` says what the caller can do about them.
    `causes` are sentences, see allowance.causes.
    """
    available = max(standings, key=lambda s: s.free, default=None)
    unspent = max(standings, key=lambda s: s.unspent, default=None)
    return NotEnoughAllowanceException(
        required_allowance=seconds,
        highest_available_allowance=ledger.to_seconds(available.free) if available else 0.0,
        highest_available_allowance_ss58=available.balance.hotkey if available and available.free else None,
        highest_unspent_allowance=ledger.to_seconds(unspent.unspent) if unspent else 0.0,
        highest_unspent_allowance_ss58=unspent.balance.hotkey if unspent and unspent.unspent else None,
        excluded=excluded,
        instead=instead,
        causes=causes,
    )
