"""The chain follower of this site: the loops of the ledger, of the receipts and of the settings' document."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from uuid import UUID

from constance.utils import get_values_for_keys
from django.core.exceptions import ImproperlyConfigured

from allowance.interface import (
    Account,
    Following,
    MinerRow,
    Reservation,
    chain_source,
    collateral_source,
    follow_settings,
    is_played,
    manifest_source,
    parse_limits,
    present,
    require_library,
    validator,
)
from receipts.interface import HttpPages, Intake, MinerAddress, ReceiptsLoop
from routing.conf import conf
from routing.dynamic import EXECUTOR_LIMITS
from routing.models import DecisionRecord, RoutedJob
from routing.types import Outcome
from routing.upkeep.document import document_loop

PARTS = ("blocks", "manifests", "collateral", "receipts", "settings")
"""The names of the loops."""


def following(tell: Callable[..., None], *, parts: Collection[str] = PARTS, accept_silence: bool = False) -> Following:
    """Return the follower that the settings describe, with the loops of these `parts`.

    Raises ImproperlyConfigured or HotkeyUnusable if a setting is missing or wrong.
    """
    chain = chain_source()
    made = Following(
        chain,
        manifest_source(chain) if "manifests" in parts else None,
        collateral_source(chain) if "collateral" in parts else None,
        hotkey=validator(),
        tell=tell,
        limits=executor_limits,
        accept_silence=accept_silence,
    )
    serves_receipts = conf.RECEIPTS_FROM_MINERS and not is_played(chain)  # a played miner does not exist
    if "receipts" in parts and serves_receipts:
        made.loops.append(receipts_loop(made.hotkey, made.blocks.validators, tell))
    if document := document_loop(tell):
        made.loops.append(document)
    made.loops = [loop for loop in made.loops if loop.name in parts]
    if not made.loops:
        raise ImproperlyConfigured(f"With these settings there is nothing to follow for: {', '.join(parts)}.")
    return made


def receipts_loop(own: str, validators: Callable[[], Collection[str]], tell: Callable[..., None]) -> ReceiptsLoop:
    """Return the loop that takes in the receipts that the miners serve. `own` is the hotkey of our validator.

    Raises ImproperlyConfigured if a library is missing.
    """
    require_library("receipts")
    pages = HttpPages(allow_private=bool(follow_settings.FOLLOW_PRIVATE_ADDRESSES))
    return ReceiptsLoop(pages, Intake(own=own, validators=validators, routed=routed), serving_miners, tell)


def executor_limits() -> Mapping[str, int]:
    """Return the limits of executors in the dynamic settings, or MANIFEST_LIMITS if that setting is empty.

    Raises BadInputError if limits were stored without the check of the admin.
    """
    text = str(get_values_for_keys([EXECUTOR_LIMITS])[EXECUTOR_LIMITS])
    limits: Mapping[str, int] = parse_limits(text) if text else follow_settings.MANIFEST_LIMITS
    return limits


def routed(jobs: Collection[UUID]) -> set[UUID]:
    """Return those of the `jobs` that this site has routed, or for which it has made a reservation."""
    decided = DecisionRecord.objects.filter(outcome=Outcome.ROUTED, job_uuid__in=jobs).values_list("job_uuid")
    reserved = Reservation.objects.filter(job_uuid__in=jobs).values_list("job_uuid")
    return {job for (job,) in RoutedJob.objects.filter(pk__in=jobs).values_list("pk").union(decided, reserved)}


def serving_miners() -> Iterator[MinerAddress]:
    """Yield the registered miners that have executors and an address."""
    working = Account.objects.filter(executors__gt=0).values("miner")
    for miner in MinerRow.objects.filter(pk__in=working).order_by("hotkey"):
        if present(miner.presence) and miner.value.is_reachable:
            yield MinerAddress(miner.hotkey, miner.address, miner.port)
