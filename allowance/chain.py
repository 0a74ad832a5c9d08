"""What a chain follower records: blocks in any order, manifests in block order, collateral.

Each function checks its input first and stores all of it or nothing.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import TypeVar

from django.db.models import Max, Min

from allowance import validation
from allowance.ledger import KEPT_BLOCKS, Steps, assign, block_ns, forget
from allowance.locks import chain_changed, ledger_transaction, lock_accounts_of, lock_chain
from allowance.models import Account, Block, ManifestSync, Miner, NeuronList
from allowance.types import BadInputError

logger = logging.getLogger(__name__)

Row = TypeVar("Row", Miner, Account)


def record_block(
    *, number: int, timestamp: dt.datetime, stake_share: float, hotkeys: Iterable[str] | None = None
) -> None:
    """Record a minted block: our `stake_share` at it, 0 to 1, and the `hotkeys` registered (left out: as before).

    Blocks may come late, in any order and twice; only the first word on a number counts. Raises ValueError for bad
    input, and for a timestamp that does not lie between those of the blocks around it.
    """
    number = validation.block_number(number)
    timestamp = validation.timestamp(timestamp)
    stake_share = validation.stake_share(stake_share)
    names = None if hotkeys is None else sorted(validation.hotkeys(hotkeys, "hotkeys"))
    with ledger_transaction():
        lock_chain()
        known = Block.objects.filter(pk=number).first()
        if known is not None:
            if (known.timestamp, known.stake_share) != (timestamp, stake_share):
                logger.warning("Block %d came again with other contents; what was recorded first stays.", number)
            return
        before = Block.objects.filter(number__lt=number).order_by("-number").first()
        after = Block.objects.filter(number__gt=number).order_by("number").first()
        if (before and before.timestamp > timestamp) or (after and after.timestamp < timestamp):
            raise BadInputError(
                f"Block {number} at {timestamp.isoformat()} does not lie between its neighbours in time; "
                "check the follower's clock and its order of blocks."
            )
        chain_changed()
        block = Block(number=number, timestamp=timestamp, stake_share=stake_share)
        if names is not None:
            block.neurons = _neuron_list(names)
            _register(set(names), number)
        if after and after.number == number + 1:
            block.ns = ns_between(block, after)
        block.save(force_insert=True)
        if before and before.number == number - 1:
            before.ns = ns_between(before, block)
            before.save(update_fields=["ns"])


def record_manifests(
    *, block: int, axons: Mapping[str, Mapping[str, object]], executors: Mapping[str, Mapping[str, int]]
) -> None:
    """Record a manifest sync made when the chain was at `block`.

    `axons` are the miners asked, which are the registered ones: hotkey to `address`, `ip_version`, `port`. `executors`
    are their answers: hotkey to count by class. Who did not answer has 0 in every class; who was not asked stays as it
    is. A lower count voids what the miner gave in that class before `block`. The same sync again changes nothing.

    Raises ValueError for a sync older than the newest recorded, and for bad input. An unknown class is bad input too:
    what miners make up is for the follower to leave out.
    """
    block = validation.block_number(block)
    miners = {name: validation.axon(name, axon) for name, axon in axons.items()}
    answers = {name: validation.manifest(name, counts) for name, counts in executors.items()}
    if unasked := sorted(answers.keys() - miners.keys()):
        raise BadInputError(f"Manifest without an axon: {', '.join(unasked[:5])}. Leave it out, or add the axon.")
    where = {name: {k: v for k, v in asdict(m).items() if k != "hotkey_ss58"} for name, m in sorted(miners.items())}
    digest = _digest([where, answers])
    with ledger_transaction():
        lock_chain()
        if ManifestSync.objects.filter(block=block, digest=digest).exists():
            return
        newest = ManifestSync.objects.order_by("-block").first()
        if newest is not None and newest.block > block:
            raise BadInputError(
                f"Manifests at block {block} are older than those at {newest.block}; record them in block order."
            )
        chain_changed()
        _locate(where)
        if newest is None:
            _register_asked(set(miners))
        ManifestSync.objects.create(block=block, digest=digest, axons=where, executors=answers)
        _declare(block, set(miners), answers)


def record_collateral(*, hotkey: str, wei: int | str) -> None:
    """Record that a miner's collateral is now `wei`, 0 to 2**256 - 1. Raises ValueError for anything else."""
    miner = Miner(hotkey=validation.hotkey(hotkey), wei=validation.wei(wei))
    with ledger_transaction():
        lock_chain()
        chain_changed()
        _upsert([miner], ["hotkey"], ["wei"])


def newest_block() -> int:
    """Return the number of the newest block recorded, 0 before the first."""
    return Block.objects.aggregate(newest=Max("number"))["newest"] or 0


def ns_between(block: Block, successor: Block) -> int:
    """Return what one executor earned for us in `block`, in nanoseconds."""
    return block_ns((successor.timestamp - block.timestamp) // dt.timedelta(microseconds=1), block.stake_share)


def presence_history() -> Iterator[tuple[int, set[str]]]:
    """Yield (block, hotkeys registered from it on), ascending.

    Before the first list of neurons, those asked in the first manifest sync count as registered.
    """
    first = ManifestSync.objects.order_by("pk").first()
    if first is not None:
        yield -1, set(first.axons)
    lists = {pk: set(hotkeys) for pk, hotkeys in NeuronList.objects.values_list("pk", "hotkeys")}
    rows = Block.objects.filter(neurons__isnull=False).order_by("number").values_list("number", "neurons_id")
    for number, pk in rows.iterator():
        yield number, lists[pk or 0]


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _neuron_list(names: list[str]) -> NeuronList:
    return NeuronList.objects.get_or_create(digest=_digest(names), defaults={"hotkeys": names})[0]


def _register(names: set[str], number: int) -> None:
    """Make `names` the registered neurons from block `number` up to the next block with a list of its own."""
    listed = Block.objects.filter(neurons__isnull=False)
    before = listed.filter(number__lt=number).order_by("-number").select_related("neurons").first()
    if before is not None and before.neurons is not None:
        previous = set(before.neurons.hotkeys)
    else:
        first = ManifestSync.objects.order_by("pk").first()
        previous = set(first.axons) if first else set()
    until = listed.filter(number__gt=number).aggregate(next=Min("number"))["next"]
    _set_presence(names - previous, 1, number, until)
    _set_presence(previous - names, 0, number, until)


def _register_asked(names: set[str]) -> None:
    """Take who was asked in the first sync as registered in all blocks before the first list of neurons."""
    until = Block.objects.filter(neurons__isnull=False).aggregate(first=Min("number"))["first"]
    _set_presence(names, 1, 0, until)


def _set_presence(names: set[str], value: int, start: int, stop: int | None) -> None:
    known = {miner.hotkey: miner for miner in Miner.objects.filter(hotkey__in=names)}
    changed = []
    for name in sorted(names):
        miner = known.get(name) or Miner(hotkey=name)
        presence = forget(assign(miner.presence, value, start, stop), start - KEPT_BLOCKS)
        if presence != miner.presence:
            miner.presence = presence
            changed.append(miner)
    lock_accounts_of([miner.hotkey for miner in changed])
    _upsert(changed, ["hotkey"], ["presence"])


def _locate(axons: Mapping[str, Mapping[str, str | int]]) -> None:
    known = {miner.hotkey: miner for miner in Miner.objects.filter(hotkey__in=axons)}
    changed = []
    for name, axon in axons.items():
        miner = known.get(name) or Miner(hotkey=name)
        if {"address": miner.address, "ip_version": miner.ip_version, "port": miner.port} != axon:
            miner.address, miner.ip_version, miner.port = (
                str(axon["address"]),
                int(axon["ip_version"]),
                int(axon["port"]),
            )
            changed.append(miner)
    lock_accounts_of([miner.hotkey for miner in changed])
    _upsert(changed, ["hotkey"], ["address", "ip_version", "port"])


def _declare(block: int, asked: set[str], answers: Mapping[str, Mapping[str, int]]) -> None:
    """Bring the accounts of who was asked to the counts that they declared."""
    declared = {(name, cls): n for name, counts in answers.items() for cls, n in counts.items() if n}
    accounts = {(a.miner_id, a.executor_class): a for a in Account.objects.filter(miner__in=asked)}
    horizon = newest_block() - KEPT_BLOCKS  # not the sync's: blocks may be recorded long after the manifests
    changed = []
    for name, cls in sorted(accounts.keys() | declared.keys()):
        count, old = declared.get((name, cls), 0), accounts.get((name, cls), Account())
        if count != old.executors:
            executors, voided_before, counts = declared_step(
                (old.executors, old.voided_before, old.counts), block, count
            )
            changed.append(
                Account(
                    miner_id=name,
                    executor_class=cls,
                    executors=executors,
                    voided_before=voided_before,
                    counts=forget(counts, horizon),
                )
            )
    _upsert(changed, ["executor_class", "miner"], ["executors", "voided_before", "counts", "version"])


def _upsert(rows: list[Row], key: list[str], fields: list[str]) -> None:
    """Write `fields` of rows, old and new, in one statement; an old row keeps its other columns."""
    if rows:
        type(rows[0])._default_manager.bulk_create(rows, update_conflicts=True, unique_fields=key, update_fields=fields)


def declared_step(before: tuple[int, int, Steps], block: int, count: int) -> tuple[int, int, Steps]:
    """Return an account's (executors, voided_before, counts) after it declared `count` at `block`."""
    executors, voided_before, counts = before
    return count, block if count < executors else voided_before, assign(counts, count, block)
