"""A scripted chain: what a node says of it is what the follower must have recorded afterwards."""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import bittensor_core as core

from allowance.follow.sources import ChainBlock, Head, Neuron
from tests.live.fixtures import NEW
from tests.live.runtime import SS58_FORMAT, runtime

NETUID = 12
FIRST = 1_000
START = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
BLOCK_TIME = dt.timedelta(seconds=12)
FINALITY_LAG = 2
"""How many blocks the finalized head is behind the best one."""

GENESIS = "0x" + hashlib.blake2b(b"genesis", digest_size=32).hexdigest()


@dataclass(frozen=True)
class State:
    """A block and what the chain's state says after it.

    The runtime `written_by` has executed the block, so it has encoded the stored values. `spec` is the runtime in the
    state: it answers runtime calls at the block, and executes the next block. They differ at the block of an upgrade.
    """

    block: ChainBlock
    spec: int
    written_by: int
    evm: Mapping[int, str]
    commitments: Mapping[str, bytes]

    @cached_property
    def storage(self) -> dict[str, str]:
        """The stored values by their keys, both as hexadecimal text, ordered by the key."""
        of = runtime(self.written_by)
        found = {
            of.key("Timestamp", "Now"): of.stored("Timestamp", "Now", round(self.block.timestamp.timestamp() * 1000)),
            of.key("System", "ParentHash"): of.stored("System", "ParentHash", self.block.parent),
        }
        for uid, address in self.evm.items():
            key = of.key("SubtensorModule", "AssociatedEvmAddress", NETUID, uid)
            found[key] = of.stored("SubtensorModule", "AssociatedEvmAddress", (address, self.block.number))
        for hotkey, content in self.commitments.items():
            value = {"deposit": 0, "block": self.block.number, "info": {"fields": _fields(content)}}
            found[of.key("Commitments", "CommitmentOf", NETUID, hotkey)] = of.stored(
                "Commitments", "CommitmentOf", value
            )
        return dict(sorted(found.items()))


class Discarded(LookupError):
    """The state after a block that is older than the script. No node has it."""


class Chain:
    """Blocks that a test scripts, from `first` on. The next one takes `neurons`, `evm`, `commitments` and `spec`.

    The blocks before `first` have hashes, but no node has their state.

    `pruned_below` is the first block whose state an ordinary node still has. While `finalizing` is false, the finalized
    head stands still. Block times are exact: `block_time` after the parent's, whatever the clock says.
    """

    def __init__(
        self,
        neurons: Iterable[Neuron],
        *,
        evm: Mapping[int, str] | None = None,
        commitments: Mapping[str, bytes] | None = None,
        spec: int = NEW,
        start: dt.datetime = START,
        block_time: dt.timedelta = BLOCK_TIME,
        first: int = FIRST,
    ) -> None:
        self.neurons, self.spec, self.block_time = tuple(neurons), spec, block_time
        self.evm, self.commitments = dict(evm or {}), dict(commitments or {})
        self.finalizing, self.pruned_below = True, 0
        self.first, self._start = first, start
        self._old = {_digest(f"old {number}"): number for number in range(1, first - 1)}
        self._states: list[State] = []
        self._by_hash: dict[str, State] = {}
        self._finalized = first
        self._salt = itertools.count()
        self._append(dt.timedelta())  # the parent of the first: its runtime has written what is stored after the first
        self.mine(1 + FINALITY_LAG)

    def mine(self, count: int = 1) -> None:
        """Append blocks, and finalize those that are FINALITY_LAG behind the head, but for `finalizing`."""
        for _ in range(count):
            self._append(dt.timedelta())
            if self.finalizing:
                self._finalized = max(self._finalized, self.head - FINALITY_LAG)

    def fork(self, depth: int = FINALITY_LAG) -> None:
        """Replace the newest `depth` blocks by others with the same numbers. They are not finalized yet."""
        assert self.head - depth >= self._finalized, "a finalized block can't be forked away"
        del self._states[-depth:]
        for _ in range(depth):
            self._append(self.block_time / 24)

    @property
    def head(self) -> int:
        """The number of the best block."""
        return self.first + len(self._states) - 2

    @property
    def finalized(self) -> Head:
        """The newest finalized block."""
        return Head(self._finalized, self.state(self._finalized).block.hash)

    def state(self, number: int) -> State:
        """Return the state after a block of the best chain. Raises LookupError if there is none."""
        if not self.first <= number <= self.head:
            raise LookupError(f"no block {number}")
        return self._states[number - self.first + 1]

    def state_at(self, block_hash: str) -> State:
        """Return the state after a block by its hash. Raises Discarded, or LookupError if there is no such block."""
        if block_hash in self._old:
            raise Discarded(block_hash)
        return self._by_hash[block_hash]

    def hash_of(self, number: int) -> str | None:
        """Return the hash of a block of the best chain, or None if there is none."""
        if number == 0:
            return GENESIS
        if number < self.first:
            return _digest(f"old {number}")
        return self.state(number).block.hash if number <= self.head else None

    def header(self, block_hash: str) -> tuple[int, str] | None:
        """Return the number of a block and the hash of its parent, or None if there is no such block."""
        if block_hash in self._old:
            number = self._old[block_hash]
            return number, self.hash_of(number - 1) or GENESIS
        state = self._by_hash.get(block_hash)
        return (state.block.number, state.block.parent) if state else None

    def _append(self, late: dt.timedelta) -> None:
        number = self.first + len(self._states) - 1
        before = self._states[-1] if self._states else None
        parent = before.block.hash if before else _digest(f"old {number - 1}")
        block = ChainBlock(
            number=number,
            hash=_digest(f"{number}/{next(self._salt)}" if before else f"old {number}"),
            parent=parent,
            timestamp=self._start + (number - self.first) * self.block_time + late,
            neurons=self.neurons,
        )
        state = State(
            block=block,
            spec=self.spec,
            written_by=before.spec if before else self.spec,
            evm=dict(self.evm),
            commitments=dict(self.commitments),
        )
        self._by_hash[block.hash] = state  # before it can be seen
        self._states.append(state)


def hotkey(name: object) -> str:
    """Return the address of an account that the name determines."""
    address: str = core.ss58_encode(hashlib.blake2b(str(name).encode(), digest_size=32).digest(), SS58_FORMAT)
    return address


def subnet(size: int = 256, *, validators: int = 10, name: str = "neuron") -> tuple[Neuron, ...]:
    """Return neurons: first `validators` with a permit and stake that don't listen, then miners."""
    return tuple(
        Neuron(
            uid=uid,
            hotkey=hotkey(f"{name} {uid}"),
            address="0.0.0.0" if uid < validators else f"10.0.{uid // 256}.{uid % 256}",  # noqa: S104
            ip_version=4,
            port=0 if uid < validators else 8_000 + uid,
            permit=uid < validators,
            stake=(uid + 1) * 10**12 if uid < validators else 5,
        )
        for uid in range(size)
    )


def changed(neurons: Iterable[Neuron], uid: int, **values: object) -> tuple[Neuron, ...]:
    """Return the neurons with other values for one of them."""
    return tuple(replace(neuron, **values) if neuron.uid == uid else neuron for neuron in neurons)  # type: ignore[arg-type]


def _digest(text: str) -> str:
    return "0x" + hashlib.blake2b(text.encode(), digest_size=32).hexdigest()


def _fields(content: bytes) -> list[dict[str, bytes]]:
    """Return the data fields of a commitment: of at most 128 bytes each, as wallets write them."""
    parts = [content[start : start + 128] for start in range(0, len(content), 128)]
    return [{f"Raw{len(part)}": part} for part in parts]
