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
from django.utils import timezone

from allowance import validation
from allowance.ledger import KEPT_BLOCKS, Steps, assign, block_ns, forget
from allowance.locks import chain_changed, ledger_transaction, lock_accounts_of, lock_chain
from allowance.models import Account, Block, ManifestSync, Miner, NeuronList
from allowance.types import MAX_AHEAD, BadInputError

logger = logging.getLogger(__name__)

CHECK_STAKE = "Check the stake of the validator, and the hotkey whose stake the follower reads."
CHECK_NEURONS = "Check the subnet, and the node, from which the follower reads the neurons."
CHECK_MANIFESTS = "Check that the follower reaches the miners."

Row = TypeVar("Row", Miner, Account)


def record_block(
    *, number: int, timestamp: dt.datetime, stake_share: float, hotkeys: Iterable[str] | None = None
) -> None:
    """Record a minted block: our `stake_share` at it, 0 to 1, and the `hotkeys` registered (left out: as before).

    Blocks may come late, in any order and twice; only the first word on a number counts. Raises ValueError for bad
    input, for a timestamp that does not lie between those of the blocks around it, and for one that is more than
    MAX_AHEAD ahead of the clock.
    """
    number = validation.block_number(number)
    timestamp = _not_ahead(number, validation.timestamp(timestamp))
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
        for other, is_older in ((before, False), (after, True)):
            if other and (timestamp > other.timestamp if is_older else timestamp < other.timestamp):
                raise _out_of_order(number, timestamp, other)
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
        if after is None:
            _warn_of_nothing_earned(block, before, names)


def record_manifests(
    *, block: int, axons: Mapping[str, Mapping[str, object]], executors: Mapping[str, Mapping[str, int]]
) -> None:
    """Record a manifest sync made when the chain was at `block`.

    `axons` are the miners asked, which are the registered ones: hotkey to `address`, `ip_version`, `port`. `executors`
    are their answers: hotkey to count by class. Who did not answer has 0 in every class; who was not asked stays as it
    is. A lower count voids what the miner gave in that class before `block`. The same sync again changes nothing. If
    more than half of the miners that answered the last sync are silent, that is recorded, with a warning.

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
                f"Manifests at block {block} are older than those at {newest.block}; record them in block order. "
                f"If those are wrong, take them back: manage.py forget_blocks --from {newest.block}."
            )
        chain_changed()
        _locate(where)
        if newest is None:
            _register_asked(set(miners))
        answered = {name for name in miners if newest and newest.executors.get(name)}
        silent = sum(not answers.get(name) for name in answered)
        sync = ManifestSync(block=block, digest=digest, axons=where, executors=answers)
        sync.answered, sync.silent = len(answered), silent
        sync.save()
        if 2 * silent > len(answered):
            logger.warning("%s %s", sync.silence, CHECK_MANIFESTS)
        _declare(block, set(miners), answers)


def record_collateral(*, hotkey: str, wei: int | str) -> None:
    """Record that a miner's collateral is now `wei`, 0 to 2**256 - 1. Raises ValueError for anything else."""
    miner = Miner(hotkey=validation.hotkey(hotkey), wei=validation.wei(wei))
    with ledger_transaction():
        lock_chain()
        chain_changed()
        upsert([miner], ["hotkey"], ["wei"])


def _not_ahead(number: int, timestamp: dt.datetime) -> dt.datetime:
    """Return the timestamp of a block. Raises BadInputError if it is too far ahead of the clock."""
    now = timezone.now()
    if timestamp > now + MAX_AHEAD:
        raise BadInputError(
            f"Block {number} at {timestamp.isoformat()} is ahead of this host's clock ({now.isoformat()}) by more than "
            f"{MAX_AHEAD.total_seconds() / 60:g} minutes. Check the clocks of this host and of the chain's node."
        )
    return timestamp


def _out_of_order(number: int, timestamp: dt.datetime, stored: Block) -> BadInputError:
    relation = "newer" if number < stored.number else "older"
    return BadInputError(
        f"Block {number} at {timestamp.isoformat()} is {relation} than block {stored.number}, which is stored, at "
        f"{stored.timestamp.isoformat()}. If the stored one is wrong, take it back: "
        f"manage.py forget_blocks --from {stored.number}."
    )


def _warn_of_nothing_earned(block: Block, before: Block | None, names: list[str] | None) -> None:
    """Warn, once, that from the newest block on our stake share is 0, or that no miner is registered."""
    if block.stake_share == 0 and (before is None or before.stake_share > 0):
        logger.warning("Our own stake share is 0 from block %d on: its blocks earn nothing. %s", block.pk, CHECK_STAKE)
    if names == []:
        listed = Block.objects.filter(number__lt=block.pk, neurons__isnull=False).order_by("-number")
        if listed.values_list("neurons__digest", flat=True).first() != NO_NEURONS:
            logger.warning("The neuron list of block %d is empty: no miner is registered. %s", block.pk, CHECK_NEURONS)


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


NO_NEURONS = _digest([])
"""The digest of an empty list of neurons."""


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
    upsert(changed, ["hotkey"], ["presence"])


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
    upsert(changed, ["hotkey"], ["address", "ip_version", "port"])


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
    upsert(changed, ["executor_class", "miner"], ["executors", "voided_before", "counts", "version"])


def upsert(rows: list[Row], key: list[str], fields: list[str]) -> None:
    """Write `fields` of rows, old and new, in one statement; an old row keeps its other columns."""
    if rows:
        type(rows[0])._default_manager.bulk_create(rows, update_conflicts=True, unique_fields=key, update_fields=fields)


def declared_step(before: tuple[int, int, Steps], block: int, count: int) -> tuple[int, int, Steps]:
    """Return an account's (executors, voided_before, counts) after it declared `count` at `block`."""
    executors, voided_before, counts = before
    return count, block if count < executors else voided_before, assign(counts, count, block)
