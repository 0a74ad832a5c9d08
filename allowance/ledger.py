"""The arithmetic of allowance, on a window of blocks and the balances of accounts. Nothing here uses the database.

Amounts are whole executor-nanoseconds, so that sums are exact. A set of blocks is an int whose bit k stands for block
`base + k`. A step function of the block number is a tuple of (first block, value) pairs, ascending; its value is 0
before the first pair.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from allowance.types import (
    BLOCK_DURATION_US,
    BLOCK_EXPIRY,
    MAX_BLOCK_DURATION_US,
    MAX_JOB_RUN_TIME,
    Miner,
    is_reachable,
)

Steps = tuple[tuple[int, int], ...]
Nanoseconds = npt.NDArray[np.int64]

NS = 1_000_000_000


KEPT_BLOCKS = BLOCK_EXPIRY + MAX_JOB_RUN_TIME * 1_000_000 // BLOCK_DURATION_US
"""How many blocks before the newest one a balance keeps.

These are the BLOCK_EXPIRY blocks before the start of a job, and the blocks minted while the longest job runs. No
running job can use older blocks.
"""

CHUNK = 64
"""Number of balances surveyed at once."""


class Scratch(threading.local):
    """Two work arrays for each thread, used again: page faults of new arrays would take most of a survey's time."""

    def __init__(self) -> None:
        self.arrays = np.empty((2, CHUNK, KEPT_BLOCKS + 1), dtype=np.int64)


_scratch = Scratch()


@dataclass(frozen=True, slots=True)
class Window:
    """The blocks that a job may use: block `low + i` gives `ns[i]` nanoseconds for each executor, 0 if unknown.

    `newest` is the last block, or None if there is none. `version` is the chain's version when the blocks were read.
    """

    low: int
    ns: Nanoseconds
    newest: int | None
    version: int | None = field(default=None, compare=False)

    def without_oldest(self, blocks: int) -> Window:
        """Return the window without the `blocks` that expire next, of all that a job at the newest block may use.

        Blocks that are not recorded count too. The arrays are shared.
        """
        if self.newest is None:
            return self
        cut = self.newest - BLOCK_EXPIRY + blocks - self.low
        return self if blocks <= 0 or cut <= 0 else Window(self.low + cut, self.ns[cut:], self.newest, self.version)


class Balance(NamedTuple):
    """A miner in one executor class: the account's row and the miner's row as one value."""

    hotkey: str
    address: str
    ip_version: int
    port: int
    wei: int
    presence: Steps
    executor_class: str
    executors: int
    counts: Steps
    voided_before: int
    base: int
    held: int
    spent: int

    @property
    def miner(self) -> Miner:
        """The miner as a public `allowance.types.Miner`."""
        return Miner(self.address, self.ip_version, self.port, self.hotkey)

    @property
    def is_reachable(self) -> bool:
        """Whether a job can be sent to the miner."""
        return is_reachable(self.address, self.ip_version, self.port)

    @property
    def registered(self) -> bool:
        """Whether the newest neuron list contains the miner."""
        return present(self.presence)


class Standing(NamedTuple):
    """One account's amounts in a window, in nanoseconds.

    `earned` does not count voided blocks. `earliest` is the oldest free block, or None. The standing with the lowest
    `order` is used first.
    """

    balance: Balance
    earned: int
    free: int
    spent: int
    earliest: int | None
    order: tuple[float, float, int, str]

    @property
    def unspent(self) -> int:
        return self.earned - self.spent


def standing(balance: Balance, earned: int, free: int, spent: int, first: int) -> Standing:
    """Return an account's standing. Its `order` puts the earliest free block first.

    For equal blocks, the highest free share comes first, then the most free nanoseconds, then the lowest hotkey.

    Python rounds the quotient of two ints correctly, so equal shares are equal floats.
    """
    if not free:
        return Standing(balance, earned, 0, spent, None, (math.inf, 0.0, 0, balance.hotkey))
    return Standing(balance, earned, free, spent, first, (first, -(free / earned), -free, balance.hotkey))


def present(presence: Steps) -> bool:
    """Tell whether a miner with this presence is registered at the newest block."""
    return bool(presence and presence[-1][1])


def was_present(presence: Steps, since: int) -> bool:
    """Tell whether a miner with this presence was registered at some block from `since` on."""
    return bool(value_at(presence, since)) or any(there and block > since for block, there in presence)


def to_ns(seconds: float) -> int:
    """Return `seconds` in nanoseconds, rounded to nearest, at least 1."""
    return max(1, round(seconds * NS))


def to_seconds(ns: int) -> float:
    """Return nanoseconds as seconds."""
    return ns / NS


def block_ns(duration_us: int, stake_share: float) -> int:
    """Return the allowance that one executor gives us for a block, in nanoseconds, rounded to nearest.

    A block that took longer than MAX_BLOCK_DURATION_US counts as BLOCK_DURATION_US.
    """
    counted = BLOCK_DURATION_US if duration_us > MAX_BLOCK_DURATION_US else duration_us
    return round(counted * 1000 * stake_share)


def value_at(steps: Steps, block: int) -> int:
    """Return the value of a step function at `block`."""
    value = 0
    for first, then in steps:
        if first > block:
            break
        value = then
    return value


def assign(steps: Steps, value: int, start: int, stop: int | None = None) -> Steps:
    """Return the step function with `value` from `start` up to, not including, `stop` (None: without an end)."""
    before = [step for step in steps if step[0] < start]
    after = [] if stop is None else [(stop, value_at(steps, stop)), *(step for step in steps if step[0] > stop)]
    changed: list[tuple[int, int]] = []
    for first, then in [*before, (start, value), *after]:
        if then != (changed[-1][1] if changed else 0):
            changed.append((first, then))
    return tuple(changed)


def forget(steps: Steps, horizon: int) -> Steps:
    """Return the step function without the steps that affect only blocks before `horizon`."""
    if len(steps) == 1 and steps[0][0] <= horizon:
        return ((horizon, steps[0][1]),)
    standing = value_at(steps, horizon)
    return (*([(horizon, standing)] if standing else []), *(step for step in steps if step[0] > horizon))


def to_bits(blocks: Iterable[int], base: int) -> int:
    """Return `blocks` as a set that counts from `base`; blocks below `base` are left out."""
    kept = [block for block in blocks if block >= base]
    first, bits = min(kept, default=base), 0
    for block in kept:  # small numbers: `base` may be millions of blocks lower
        bits |= 1 << (block - first)
    return bits << (first - base)


def to_blocks(bits: int, base: int) -> list[int]:
    """Return the blocks of a set, ascending."""
    return [base + k for k in range(bits.bit_length()) if bits >> k & 1]


def shifted(bits: int, base: int, to: int) -> int:
    """Convert a set of blocks that counts from `base` to one that counts from `to`."""
    return bits >> to - base if to >= base else bits << base - to


def rebase(balance: Balance, newest: int) -> Balance:
    """Return the balance without the blocks that are too old for any job: more than KEPT_BLOCKS before `newest`."""
    base = newest - KEPT_BLOCKS
    if base <= balance.base:
        return balance
    held, spent = (shifted(bits, balance.base, base) for bits in (balance.held, balance.spent))
    return balance._replace(base=base, held=held, spent=spent)


def free_again(balance: Balance, blocks: Iterable[int]) -> Balance:
    """Return the balance with `blocks` no longer held."""
    return balance._replace(held=balance.held & ~to_bits(blocks, balance.base))


def hold(balance: Balance, blocks: Iterable[int]) -> Balance:
    """Return the balance with `blocks` held."""
    return balance._replace(held=balance.held | to_bits(blocks, balance.base))


def survey(window: Window, balances: Sequence[Balance]) -> list[Standing]:
    """Return the standing of every balance, in the order given."""
    chunks = (balances[i : i + CHUNK] for i in range(0, len(balances), CHUNK))
    return [standing for chunk in chunks for standing in _survey(window, chunk)]


def standings(window: Window, balances: Iterable[Balance]) -> list[Standing]:
    """Return the standing of every registered miner, in the order in which allowance is used."""
    registered = [balance for balance in balances if balance.registered]
    return sorted(survey(window, registered), key=attrgetter("order"))


def take(window: Window, balance: Balance, need: int) -> list[int] | None:
    """Return the oldest free blocks that give at least `need` nanoseconds, ascending, or None if all give less."""
    free = np.empty((1, window.ns.size), dtype=np.int64)
    _earn(window, [balance], free)
    free *= ~mask([balance.held | balance.spent], [balance], window)
    sums = free[0].cumsum()
    if sums[-1] < need:
        return None
    last = int(sums.searchsorted(need))
    return [window.low + i for i in free[0, : last + 1].nonzero()[0].tolist()]


def earned_by_block(window: Window, balance: Balance) -> Nanoseconds:
    """Return the nanoseconds that each block of the window gave, even if it is voided or before the balance's base."""
    earned = np.empty((1, window.ns.size), dtype=np.int64)
    _rate(window, [balance], [window.low], earned)
    earned *= window.ns
    blocks: Nanoseconds = earned[0]
    return blocks


def _survey(window: Window, balances: Sequence[Balance]) -> list[Standing]:
    earned, part = (array[: len(balances), : window.ns.size] for array in _scratch.arrays)
    _earn(window, balances, earned)
    sums = [earned.sum(axis=1)]
    np.multiply(earned, ~mask([b.held | b.spent for b in balances], balances, window), out=part)
    sums += [part.sum(axis=1), (part != 0).argmax(axis=1) + window.low]
    np.multiply(earned, mask([b.spent for b in balances], balances, window), out=part)
    columns = (column.tolist() for column in (*sums, part.sum(axis=1)))
    return [
        standing(balance, earned, free, spent, first)
        for balance, earned, free, first, spent in zip(balances, *columns, strict=True)
    ]


def _earn(window: Window, balances: Sequence[Balance], out: Nanoseconds) -> None:
    """Fill `out` with the nanoseconds that each block gave, one row per balance.

    Voided blocks, and blocks before the balance's base, have 0.
    """
    _rate(window, balances, [max(window.low, b.voided_before, b.base) for b in balances], out)
    out *= window.ns


def _rate(window: Window, balances: Sequence[Balance], starts: Sequence[int], out: Nanoseconds) -> None:
    """Fill `out` with the number of executors that count in each block, one row per balance.

    It is the declared number, or 0 in blocks before the balance's start and while the miner was not registered.
    """
    low = window.low
    out.fill(0)
    for row, balance, start in zip(out, balances, starts, strict=True):
        for first, count in balance.counts:
            row[(first if first > start else start) - low :] = count
        presence = balance.presence
        if len(presence) != 1 or presence[0][0] > low:
            for left, back in _absences(presence):
                row[max(0, left - low) : None if back is None else max(0, back - low)] = 0


def _absences(presence: Steps) -> Iterator[tuple[int, int | None]]:
    left: int | None = 0
    for block, registered in presence:
        if registered and left is not None:
            yield left, block
        left = None if registered else block
    if left is not None:
        yield left, None


def mask(sets: Sequence[int], balances: Sequence[Balance], window: Window) -> npt.NDArray[np.bool_]:
    """Return `sets` of blocks, one per balance, as booleans of shape (balances, blocks of the window)."""
    width, low = window.ns.size, window.low
    size, limit = (width + 7) // 8, (1 << width) - 1
    aligned = [shifted(bits, balance.base, low) for bits, balance in zip(sets, balances, strict=True)]
    packed = b"".join([(bits & limit).to_bytes(size, "little") for bits in aligned])
    rows = np.frombuffer(packed, dtype=np.uint8).reshape(len(balances), size)
    return np.unpackbits(rows, axis=1, count=width, bitorder="little").view(np.bool_)
