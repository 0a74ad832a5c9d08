"""A recorded subnet, played as a chain that has always run and never ends. For demos and tests; it needs no network.

The journal's blocks are repeated in a cycle. Which block is the newest depends only on the clock, so every process sees
the same chain, a restart continues it, and gaps can be filled later.
"""

from __future__ import annotations

import datetime as dt
import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from django.utils import timezone

from allowance import validation
from allowance.follow.sources import NOWHERE, BlockError, ChainBlock, Head, Manifests, Neuron, SourceError
from allowance.plumbing.calls import DEADLINE
from allowance.types import BLOCK_DURATION_US, MAX_BLOCK_NUMBER

FASTER_FROM = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
"""The time from which a chain has its speed. Before it, blocks are counted 12 s apart, whatever the speed.

The journal's own line of numbers and times is continued up to this time. From there, block numbers stay below 2**32
until September 2028 at speed 600, until 2042 at speed 100, and for 1,600 years at speed 1.
"""

ANOTHER_VALIDATOR = "another-validator"
"""The hotkey of the invented validator that has the rest of the stake."""

MICROSECOND = dt.timedelta(microseconds=1)


TAO = 10**18
INVENTED_WEI = (0, TAO // 200, TAO // 100, TAO // 10, TAO)


def invented_wei(hotkey: str) -> int:
    """Return the collateral of a miner, for journals without any. It is always the same for a hotkey."""
    return INVENTED_WEI[int(_digest("Wei", hotkey), 16) % len(INVENTED_WEI)]


class JournalUnplayable(SourceError):
    """A journal can't be played as a chain."""

    wait = 60.0

    def __init__(self, path: Path, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__(f"The journal {path} can't be played: {problem}. Set JOURNAL_FILE to another journal.")


class BlockNotMinted(BlockError):
    """A block was asked for that the chain does not have yet."""

    def __init__(self, number: int, newest: int) -> None:
        self.newest = newest
        super().__init__(number, f"Block {number} is not minted yet. The newest block of the journal is {newest}.")


class Sync(NamedTuple):
    """A manifest sync of a journal."""

    block: int
    axons: Mapping[str, Mapping[str, Any]]
    executors: Mapping[str, Mapping[str, int]]


class Content(NamedTuple):
    """What a block of the cycle contains: our share of the stake, the miners' hotkeys, and the newest manifest sync."""

    stake_share: float
    miners: Sequence[str]
    sync: Sync


@dataclass(frozen=True)
class Recording:
    """The content of a journal. `number` and `timestamp` are those of its first block.

    `uids` gives each hotkey its uid: hotkeys keep their uids while they are away. `wei` has the collateral by hotkey.
    """

    digest: str
    number: int
    timestamp: dt.datetime
    cycle: Sequence[Content]
    uids: Mapping[str, int]
    wei: Mapping[str, int]


class Journal:
    """A journal played as a ChainSource, ManifestSource and CollateralSource.

    `speed` is how many times faster than a real chain the blocks come: 12 s / speed apart. The stake share is
    multiplied by it, up to 1, so that miners earn as much in an hour as on the real chain.

    `hotkey` is our validator's. `collateral` returns the Wei of a hotkey if the journal has no collateral at all. `now`
    is the clock: by default that of this host, because the database's would take a statement at each call. Both clocks
    must be right: `record_block` accepts a difference of 15 minutes.

    The file is read when the journal is first asked. Raises JournalUnplayable, or OSError, if that is impossible.
    """

    name, deadline = "journal", DEADLINE
    contract = ""

    def __init__(
        self,
        path: Path | str,
        *,
        hotkey: str,
        speed: float = 1.0,
        pace: float = 100.0,
        collateral: Callable[[str], int] = invented_wei,
        now: Callable[[], dt.datetime] = timezone.now,
    ) -> None:
        self.path, self.hotkey, self.pace, self.invented, self.now = Path(path), hotkey, pace, collateral, now
        self.speed = Fraction(str(speed))
        self.spacing = BLOCK_DURATION_US / self.speed
        """The exact time between two blocks, in microseconds."""

    @cached_property
    def recording(self) -> Recording:
        """The content of the file."""
        return read(self.path)

    @cached_property
    def origin(self) -> tuple[int, dt.datetime]:
        """The number and the time of the block from which the chain has its speed."""
        first, spacing = self.recording.timestamp, BLOCK_DURATION_US * MICROSECOND
        before = max(0, -((first - FASTER_FROM) // spacing))
        return self.recording.number + before, first + before * spacing

    @cached_property
    def genesis_hash(self) -> str:
        """The hash that identifies this journal at this speed."""
        return _digest(self.recording.digest, self.speed)

    def newest(self) -> int:
        """Return the number of the newest block that is not ahead of the clock."""
        number, start = self.origin
        newest = number + int((self.now() - start) // MICROSECOND // self.spacing)
        if not 0 <= newest <= MAX_BLOCK_NUMBER:
            raise JournalUnplayable(self.path, f"at this speed its newest block now has the number {newest}")
        return newest

    def timestamp(self, number: int) -> dt.datetime:
        """Return the time of a block: the first microsecond at which it is the newest."""
        first, start = self.origin
        return start - (first - number) * self.spacing // 1 * MICROSECOND

    async def hash(self, number: int) -> str:
        """Return the hash of a block."""
        return self.hash_of(number)

    def hash_of(self, number: int) -> str:
        """Return the hash of a block."""
        return _digest(self.genesis_hash, number) if number else self.genesis_hash

    def content(self, number: int) -> Content:
        """Return what a block contains."""
        return self.recording.cycle[(number - self.recording.number) % len(self.recording.cycle)]

    def neurons(self, number: int) -> tuple[Neuron, ...]:
        """Return two validators, whose stakes give our share exactly, and the miners that are registered at a block."""
        share, miners, sync = self.content(number)
        own, total = min(1.0, share * max(1.0, float(self.speed))).as_integer_ratio()
        stakes = {self.hotkey: own, ANOTHER_VALIDATOR: total - own}
        validators = [
            Neuron(uid, hotkey, **NOWHERE, permit=True, stake=stake)
            for uid, (hotkey, stake) in enumerate(stakes.items())
        ]
        others = [
            Neuron(self.recording.uids[hotkey], hotkey, **sync.axons.get(hotkey, NOWHERE), permit=False, stake=0)
            for hotkey in miners
            if hotkey not in stakes
        ]
        return (*validators, *others)

    async def genesis(self) -> str:
        """Return the hash of block 0: a digest of the journal's content and the speed."""
        return self.genesis_hash

    async def latest(self) -> Head:
        """Return the newest block. All blocks are final."""
        newest = self.newest()
        return Head(newest, self.hash_of(newest))

    async def block(self, number: int) -> ChainBlock:
        """Return a block. Raises BlockNotMinted for one that is ahead of the clock."""
        newest = self.newest()
        if not 0 <= number <= newest:
            raise BlockNotMinted(number, newest)
        return ChainBlock(
            number, self.hash_of(number), self.hash_of(number - 1), self.timestamp(number), self.neurons(number)
        )

    async def commitments(self, number: int) -> Mapping[str, bytes]:
        """Return nothing: a journal has no commitments."""
        return {}

    async def evm_addresses(self, number: int) -> Mapping[int, str]:
        """Return an invented address for each miner that is registered at a block."""
        return {n.uid: address_of(n.uid) for n in self.neurons(number) if not n.permit}

    async def manifests(self, block: ChainBlock, miners: Sequence[Neuron]) -> Manifests:
        """Return what the `miners` declared in the journal's newest sync at the block."""
        executors = self.content(block.number).sync.executors
        return {n.hotkey: executors[n.hotkey] for n in miners if n.hotkey in executors}

    async def collateral(self, block: int, addresses: Sequence[str]) -> Mapping[str, int]:
        """Return the Wei of each address: the last that the journal says, 0 if it says nothing. It never changes.

        If the journal has no collateral at all, the Wei are invented.
        """
        hotkeys = {address_of(uid): hotkey for hotkey, uid in self.recording.uids.items()}
        wei = self.recording.wei
        return {
            address: wei.get(hotkey, 0) if wei else self.invented(hotkey)
            for address in addresses
            if (hotkey := hotkeys.get(address)) is not None
        }

    async def renew(self) -> None:
        """Do nothing: there is no connection."""

    async def close(self) -> None:
        """Do nothing: there is no connection."""


def address_of(uid: int) -> str:
    """Return the invented EVM address of a uid."""
    return _digest("EVM address", uid)[:42]


def read(path: Path) -> Recording:
    """Read a journal, plain or compressed with gzip. Raises JournalUnplayable, or OSError if it can't be read."""
    raw = path.read_bytes()
    try:
        content = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise JournalUnplayable(path, f"the compressed file is damaged ({error})") from error
    events: dict[str, list[dict[str, Any]]] = {"block": [], "manifests": [], "collateral": []}
    for number, line in enumerate(content.splitlines(), 1):
        if not line or line.isspace():
            continue
        try:
            event = json.loads(line)
            if event["event"] in events:
                events[event["event"]].append(_checked(event))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise JournalUnplayable(path, f"line {number} is no entry of a journal ({error})") from error
    if not events["block"]:
        raise JournalUnplayable(path, "it has no block")
    first_words = {event["number"]: event for event in reversed(events["block"])}  # as in the ledger, the first counts
    blocks = sorted(first_words.values(), key=lambda event: event["number"])
    syncs = [Sync(event["block"], event["axons"], event["executors"]) for event in events["manifests"]]
    cycle = _cycle(blocks, sorted(syncs, key=lambda sync: sync.block))
    return Recording(
        digest=hashlib.sha256(content).hexdigest(),
        number=blocks[0]["number"],
        timestamp=blocks[0]["timestamp"],
        cycle=cycle,
        uids={hotkey: uid for uid, hotkey in enumerate(dict.fromkeys(h for c in cycle for h in c.miners), 2)},
        wei={event["hotkey"]: event["wei"] for event in events["collateral"]},
    )


def _checked(event: dict[str, Any]) -> dict[str, Any]:
    """Return an entry with the types of its fields. Raises ValueError, TypeError or KeyError if it is malformed."""
    if event["event"] == "block":
        hotkeys = event.get("hotkeys")
        return {
            "number": validation.block_number(event["number"]),
            "timestamp": validation.timestamp(dt.datetime.fromisoformat(event["timestamp"])),
            "stake_share": validation.stake_share(event["stake_share"]),
            "hotkeys": None if hotkeys is None else sorted(validation.hotkeys(hotkeys, "hotkeys")),
        }
    if event["event"] == "manifests":
        axons = {name: validation.axon(name, axon) for name, axon in event["axons"].items()}
        return {
            "block": validation.block_number(event["block"]),
            "axons": {n: {"address": a.address, "ip_version": a.ip_version, "port": a.port} for n, a in axons.items()},
            "executors": {name: validation.manifest(name, counts) for name, counts in event["executors"].items()},
        }
    return {"hotkey": validation.hotkey(event["hotkey"]), "wei": validation.wei(event["wei"])}


def _cycle(blocks: Sequence[dict[str, Any]], syncs: Sequence[Sync]) -> list[Content]:
    """Return the contents of the blocks. What a block does not say is as at the block before it in the cycle.

    If no block has a list of hotkeys, the miners of the newest sync are registered.
    """
    lists = [block["hotkeys"] for block in blocks if block["hotkeys"] is not None]
    hotkeys: Sequence[str] | None = lists[-1] if lists else None
    sync, later, cycle = syncs[-1] if syncs else Sync(0, {}, {}), list(reversed(syncs)), []
    for block in blocks:
        while later and later[-1].block <= block["number"]:
            sync = later.pop()
        if block["hotkeys"] is not None:
            hotkeys = block["hotkeys"]
        cycle.append(Content(block["stake_share"], sorted(sync.axons) if hotkeys is None else hotkeys, sync))
    return cycle


def _digest(*parts: object) -> str:
    return "0x" + hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()
