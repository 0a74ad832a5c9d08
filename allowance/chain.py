"""Record what a chain follower reads: blocks in any order, manifests in block order, and collateral.

Each `record_` function validates its input first and stores all of it or nothing.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping

from django.db.models import Max, Min

from allowance import clock, rows, validation
from allowance.fields import WeiField
from allowance.ledger import KEPT_BLOCKS, Steps, assign, block_ns, forget
from allowance.locks import chain_changed, ledger_transaction, lock_accounts_of, lock_chain
from allowance.losses import CHECK_MANIFESTS, CHECK_NEURONS, absence, silences_in
from allowance.models import Account, Block, ManifestSync, Miner, NeuronList, new_version
from allowance.types import MAX_AHEAD, BadInputError

logger = logging.getLogger(__name__)

CHECK_BLOCKS = "Record the missing blocks, or forget wrong newest blocks with forget_blocks."
CHECK_STAKE = "Check the stake of the validator. Check that the chain follower reads the stake of the right hotkey."

Axon = Mapping[str, str | int]


def record_block(
    *,
    number: int,
    timestamp: dt.datetime,
    stake_share: float,
    hotkeys: Iterable[str] | None = None,
    hashes: tuple[str, str] = ("", ""),
) -> None:
    """Record a minted block: our `stake_share` at it, 0 to 1, and the registered `hotkeys` (None: unchanged).

    `hashes` are those of the block and of its parent, if they are known.

    Blocks may arrive late, in any order and more than once; only the first record of a number counts. Raises ValueError
    for bad input, for a timestamp that is not between those of the neighbouring blocks, and for one that is more than
    MAX_AHEAD ahead of the clock.

    If the list of hotkeys lacks most miners, and is another one than that of the block before, a warning is logged.
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
                logger.warning(
                    "Block %d is already recorded with other values. The new values are ignored. "
                    "If the recorded values are wrong, forget this block and all later ones: "
                    "manage.py forget_blocks --from %d.",
                    number,
                    number,
                )
            return
        before = Block.objects.filter(number__lt=number).order_by("-number").first()
        after = Block.objects.filter(number__gt=number).order_by("number").first()
        for other, is_older in ((before, False), (after, True)):
            if other and (timestamp > other.timestamp if is_older else timestamp < other.timestamp):
                raise _out_of_order(number, timestamp, other)
        chain_changed()
        block = Block(
            number=number, timestamp=timestamp, stake_share=stake_share, hash=hashes[0], parent_hash=hashes[1]
        )
        if names is not None:
            block.neurons, _ = NeuronList.objects.get_or_create(digest=_digest(names), defaults={"hotkeys": names})
            is_another_list = not (before and before.neurons_id == block.neurons_id)
            if is_another_list:
                lost = absence(newest_block())
                _register(set(names), number)
        if after and after.number == number + 1:
            block.ns = ns_between(block, after)
        block.save(force_insert=True)
        if before and before.number == number - 1:
            before.ns = ns_between(before, block)
            before.save(update_fields=["ns"])
        if after is None and stake_share == 0 and (before is None or before.stake_share > 0):
            logger.warning(
                "Our own stake share is 0 from block %d on. Blocks with a stake share of 0 earn nothing. %s",
                number,
                CHECK_STAKE,
            )
        if names is not None and is_another_list and lost is None and (lost := absence(newest_block())):
            logger.warning("%s %s", lost.sentence, CHECK_NEURONS)


def record_manifests(
    *, block: int, axons: Mapping[str, Mapping[str, object]], executors: Mapping[str, Mapping[str, int]]
) -> None:
    """Record a manifest sync made when the chain was at `block`.

    `axons` maps the hotkey of each miner asked, normally all registered ones, to `address`, `ip_version` and `port`.
    `executors` maps the hotkey of each miner that answered to its counts by class. A miner that was asked and did not
    answer has 0 executors in every class. A miner that was not asked keeps its counts. A lower count voids the
    allowance that the miner gave in that class before `block`. Recording the same sync again changes nothing.

    A sync by which most miners lose their allowance, in all classes or in one, is stored as silent, with a warning in
    the log: see `allowance.losses.silences_in`.

    Raises ValueError for a sync older than the newest recorded one, and for bad input. An unknown class is bad input:
    the follower leaves out classes that miners invent.
    """
    block = validation.block_number(block)
    miners = {name: validation.axon(name, axon) for name, axon in axons.items()}
    answers = {name: validation.manifest(name, counts) for name, counts in executors.items()}
    if unasked := sorted(answers.keys() - miners.keys()):
        raise BadInputError(
            f"Miners with a manifest but no axon: {', '.join(unasked[:5])}. Leave out the manifests, or add the axons."
        )
    where: dict[str, dict[str, str | int]] = {
        name: {"address": m.address, "ip_version": m.ip_version, "port": m.port} for name, m in sorted(miners.items())
    }
    digest = _digest([where, answers])
    with ledger_transaction():
        lock_chain()
        if ManifestSync.objects.filter(block=block, digest=digest).exists():
            return
        newest = ManifestSync.objects.order_by("-block", "-pk").first()
        if newest is not None and newest.block > block:
            raise BadInputError(
                f"The manifests of block {block} are older than the recorded manifests of block {newest.block}. Record "
                "manifests in block order. If the recorded manifests are wrong, forget them and all blocks from "
                f"{newest.block} on: manage.py forget_blocks --from {newest.block}."
            )
        chain_changed()
        _locate(where)
        if newest is None:
            _register_asked(set(miners))
        sync = ManifestSync(block=block, digest=digest, axons=where, executors=answers)
        found = silences_in(block, _declare(block, miners, answers), answers)
        sync.silent = [list(silence[1:]) for silence in found]
        sync.save()
        for silence in found:
            logger.warning("%s %s", silence.sentence, CHECK_MANIFESTS)


def record_collateral(*, hotkey: str, wei: int | str) -> None:
    """Record that a miner's collateral is now `wei`, 0 to 2**256 - 1. Raises ValueError for bad input."""
    record_collaterals({hotkey: wei})


def record_collaterals(wei_by_hotkey: Mapping[str, int | str]) -> None:
    """Record the collateral of miners in Wei, 0 to 2**256 - 1. Raises ValueError for bad input.

    Only what differs from the stored collateral is written. If nothing differs, routers need not read the chain again.
    """
    amounts = {validation.hotkey(name): validation.wei(wei) for name, wei in wei_by_hotkey.items()}
    with ledger_transaction():
        lock_chain()
        known = dict(Miner.objects.filter(hotkey__in=rows.among(amounts)).values_list("hotkey", "wei"))
        changed = {name: wei for name, wei in amounts.items() if wei != known.get(name)}
        if changed:
            chain_changed()
            stored = WeiField().get_prep_value
            rows.upsert(Miner, ["hotkey"], ["wei"], [(name, stored(wei)) for name, wei in sorted(changed.items())])


def _not_ahead(number: int, timestamp: dt.datetime) -> dt.datetime:
    """Return the timestamp of a block. Raises BadInputError if it is more than MAX_AHEAD ahead of the clock."""
    now = clock.now()
    if timestamp > now + MAX_AHEAD:
        raise BadInputError(
            f"Block {number} at {timestamp.isoformat()} is more than {MAX_AHEAD.total_seconds() / 60:g} minutes ahead "
            f"of the site's clock, {now.isoformat()}. Check the clocks of the database's host and of the chain's node."
        )
    return timestamp


def _out_of_order(number: int, timestamp: dt.datetime, stored: Block) -> BadInputError:
    relation = "later" if number < stored.number else "earlier"
    return BadInputError(
        f"Block {number} has the time {timestamp.isoformat()}, which is {relation} than the time of the recorded block "
        f"{stored.number}, {stored.timestamp.isoformat()}. If the recorded block is wrong, forget it and all later "
        f"blocks: manage.py forget_blocks --from {stored.number}."
    )


def newest_block() -> int:
    """Return the number of the newest recorded block, or 0 if there is none."""
    return Block.objects.aggregate(newest=Max("number"))["newest"] or 0


def ns_between(block: Block, successor: Block) -> int:
    """Return the allowance that one executor gave us for `block`, in nanoseconds."""
    return block_ns((successor.timestamp - block.timestamp) // dt.timedelta(microseconds=1), block.stake_share)


def presence_history() -> Iterator[tuple[int, set[str]]]:
    """Yield (block, hotkeys registered from that block on), ascending.

    Before the first neuron list, the miners asked in the first manifest sync count as registered; their block is -1.
    """
    first = ManifestSync.objects.order_by("pk").first()
    if first is not None:
        yield -1, set(first.axons)
    lists = {pk: set(hotkeys) for pk, hotkeys in NeuronList.objects.values_list("pk", "hotkeys")}
    listed = Block.objects.filter(neurons__isnull=False).order_by("number").values_list("number", "neurons_id")
    for number, pk in listed.iterator():
        yield number, lists[pk or 0]


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _register(names: set[str], number: int) -> None:
    """Make `names` the registered neurons from block `number` up to the next block that has its own list."""
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
    """Register the miners that the first sync asked, in all blocks before the first neuron list."""
    until = Block.objects.filter(neurons__isnull=False).aggregate(first=Min("number"))["first"]
    _set_presence(names, 1, 0, until)


def _set_presence(names: set[str], value: int, start: int, stop: int | None) -> None:
    known = dict(Miner.objects.filter(hotkey__in=rows.among(names)).values_list("hotkey", "presence"))
    changed = {}
    for name in sorted(names):
        before = known.get(name, ())
        presence = forget(assign(before, value, start, stop), start - KEPT_BLOCKS)
        if presence != before:
            changed[name] = presence
    lock_accounts_of(changed.keys())
    rows.upsert(Miner, ["hotkey"], ["presence"], list(changed.items()))


def _locate(axons: Mapping[str, Axon]) -> None:
    known = {name: where for name, *where in Miner.objects.values_list("hotkey", "address", "ip_version", "port")}
    announced = {name: [axon["address"], axon["ip_version"], axon["port"]] for name, axon in axons.items()}
    changed = {name: where for name, where in announced.items() if where != known.get(name)}
    lock_accounts_of(changed.keys() & known.keys())
    rows.upsert(
        Miner, ["hotkey"], ["address", "ip_version", "port"], [(name, *where) for name, where in changed.items()]
    )


def _declare(block: int, asked: Collection[str], answers: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """Set the accounts of the `asked` miners to the counts that they declared at `block`.

    Return the counts that they declared before, by hotkey and class.
    """
    declared = {(name, cls): n for name, counts in answers.items() for cls, n in counts.items() if n}
    columns = ("miner", "executor_class", "executors", "voided_before", "counts")
    accounts = {(name, cls): rest for name, cls, *rest in Account.objects.values_list(*columns) if name in asked}
    horizon = newest_block() - KEPT_BLOCKS  # not the sync's block: blocks may be recorded long after manifests
    before: dict[str, dict[str, int]] = {}
    changed = []
    for key in sorted(accounts.keys() | declared.keys()):
        executors, voided_before, counts = accounts.get(key, (0, 0, ()))
        before.setdefault(key[0], {})[key[1]] = executors
        if (count := declared.get(key, 0)) != executors:
            now, voided, steps = declared_step((executors, voided_before, counts), block, count)
            changed.append((*key, now, voided, forget(steps, horizon), new_version()))
    written = ["executors", "voided_before", "counts", "version"]
    rows.upsert(Account, ["miner", "executor_class"], written, changed)
    return before


def declared_step(before: tuple[int, int, Steps], block: int, count: int) -> tuple[int, int, Steps]:
    """Return an account's (executors, voided_before, counts) after it declared `count` at `block`."""
    executors, voided_before, counts = before
    return count, block if count < executors else voided_before, assign(counts, count, block)
