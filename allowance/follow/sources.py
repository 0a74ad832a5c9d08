"""The sources of the chain follower: the values that it reads, the protocols of the adapters, and their errors.

An adapter connects when it is first asked. Each of its methods raises SourceError, a subclass, or OSError if there is
no answer. The follower puts a deadline on each call, so an adapter need not have its own.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from allowance.plumbing.errors import RefusedError


class Head(NamedTuple):
    """A finalized block: its number, and its hash as 0x and 64 hexadecimal digits."""

    number: int
    hash: str


@dataclass(frozen=True, slots=True)
class Neuron:
    """A registered neuron at a block. `stake` is its total stake in rao, which counts for validators with a `permit`.

    `address` and `port` are where it listens; `0.0.0.0` or port 0 if it does not.
    """

    uid: int
    hotkey: str
    address: str
    ip_version: int
    port: int
    permit: bool
    stake: int


@dataclass(frozen=True, slots=True)
class ChainBlock:
    """A finalized block with the neurons that are registered at it, ordered by uid. `parent` is the parent's hash."""

    number: int
    hash: str
    parent: str
    timestamp: dt.datetime
    neurons: tuple[Neuron, ...]


NOWHERE: dict[str, Any] = {"address": "0.0.0.0", "ip_version": 4, "port": 0}  # noqa: S104 (the axon of no address)
"""Where a neuron listens that does not listen."""

Manifests = Mapping[str, Mapping[str, object]]
"""The executor counts of the miners that answered, by hotkey and class. A miner may have invented any of it."""


class ChainSource(Protocol):
    """A chain: its blocks, and what its state says at a block.

    `name` is that of the adapter, for people. `pace` is the number of blocks per second that the follower may read to
    fill gaps. `deadline` is the maximum time of a call, in seconds.
    """

    name: str
    pace: float
    deadline: float

    async def genesis(self) -> str:
        """Return the hash of block 0, which identifies the chain, or an empty text if the source does not know it."""

    async def latest(self) -> Head:
        """Return the newest finalized block."""

    async def hash(self, number: int) -> str:
        """Return the hash of a finalized block, also of one whose state is discarded; an empty text if unknown."""

    async def block(self, number: int) -> ChainBlock:
        """Return a finalized block. Raises StateDiscarded or BlockUnreadable if this block can't be read."""

    async def commitments(self, number: int) -> Mapping[str, bytes]:
        """Return what hotkeys have published in the Commitments pallet at a block, by hotkey."""

    async def evm_addresses(self, number: int) -> Mapping[int, str]:
        """Return the EVM addresses associated with neurons at a block, as 0x and 40 lower-case digits, by uid."""

    async def renew(self) -> None:
        """Drop the connection. The next call makes a new one, to the next endpoint if there are several."""

    async def close(self) -> None:
        """Close the connection."""


class ManifestSource(Protocol):
    """The executors that miners declare.

    A source may have the attribute `silences`: by hotkey, why a miner did not answer when it was last asked.
    """

    name: str

    async def manifests(self, block: ChainBlock, miners: Sequence[Neuron]) -> Manifests:
        """Return the answers of the `miners` that answered, as they gave them. `block` is the newest recorded one."""


class CollateralSource(Protocol):
    """The collateral that is posted for EVM addresses, in Wei.

    `contract` is the address of the contract that was read last, for people. It is empty before the first answer, and
    for a source that is no contract.

    The chain's own collateral of miners (MinerCollateral, in rao of alpha) is another amount in another unit. A source
    of it needs a protocol, a column and a gate of its own: nothing here may add it to Wei.
    """

    name: str
    contract: str

    async def collateral(self, block: int, addresses: Sequence[str]) -> Mapping[str, int]:
        """Return the Wei of each address at a block. An address whose collateral is unknown is left out."""

    async def renew(self) -> None:
        """Drop the connection. The next call makes a new one, to the next endpoint if there are several."""

    async def close(self) -> None:
        """Close the connection."""


class SourceError(RefusedError):
    """A source gave no usable answer. The text says why, and what to do. `wait` is when to ask again, in seconds."""

    wait: float = 5.0


LONGEST_REFUSAL = 600.0
"""The maximum time (s) for which the follower waits because a source asks it to."""


class SourceBusy(SourceError):
    """A source refuses calls for now, because of its rate limit or policy. `wait` is when to ask again, in seconds.

    It is 60 to LONGEST_REFUSAL, whatever the source asks for.
    """

    def __init__(self, source: str, wait: float, reason: str) -> None:
        wait = min(max(60.0, wait), LONGEST_REFUSAL)  # in this order NaN becomes 60
        self.source, self.wait, self.reason = source, wait, reason
        super().__init__(
            f"{source} refuses calls: {reason}. The follower waits {self.wait:g} s. Use a lite node of your own."
        )


class BlockError(SourceError):
    """A block can't be read. The follower leaves a gap."""

    def __init__(self, number: int, sentence: str) -> None:
        self.number = number
        super().__init__(sentence)


class StateDiscarded(BlockError):
    """The node has discarded the state of a block, and no archive node is set."""

    def __init__(self, number: int, advice: str = "To read it, set SUBTENSOR_ARCHIVE_URL.") -> None:
        super().__init__(number, f"The node has discarded the state of block {number}. {advice}")


class BlockUnreadable(BlockError):
    """The state of a block can't be decoded. `runtime` is the version of the chain's runtime (spec version)."""

    wait = 60.0

    def __init__(
        self, number: int, runtime: int | None, reason: str, advice: str = "Update the libraries of the extra `live`."
    ) -> None:
        self.runtime, self.reason = runtime, reason
        super().__init__(
            number, f"Block {number} can't be decoded (runtime {runtime or 'unknown'}): {reason}. {advice}"
        )


class OtherHistory(BlockError):
    """The chain has another block with a recorded number: a fork, another chain, or a lying node."""

    wait = 60.0

    def __init__(self, number: int, recorded: str, found: str) -> None:
        self.recorded, self.found = recorded, found
        super().__init__(
            number,
            f"Block {number} is recorded with the hash {recorded}, but the source says {found}. Nothing more is "
            f"recorded. If the source is right, forget the block: manage.py forget_blocks --from {number}.",
        )


class Behind(SourceError):
    """The source's newest block is far older than the newest recorded one: the node is not synchronized."""

    def __init__(self, source: str, head: int, recorded: int) -> None:
        self.source, self.head, self.recorded = source, head, recorded
        super().__init__(
            f"The newest finalized block of {source} is {head}, but block {recorded} is recorded. Nothing is recorded "
            "until it has caught up. Check that the node is synchronized, and that it is a node of the same chain."
        )


class OtherChain(SourceError):
    """The recorded ledger belongs to another chain, subnet or validator. The follower does not start."""

    wait = 60.0

    def __init__(self, what: str, recorded: str, configured: str) -> None:
        self.what, self.recorded, self.configured = what, recorded, configured
        super().__init__(
            f"The ledger was recorded for the {what} {recorded}, but the follower is set to {configured}. "
            "Correct the settings, or use an empty database."
        )


SOURCE_FAILURES = (SourceError, OSError, TimeoutError)
"""What a source raises if it gives no usable answer."""
