"""The loop that records the collateral of the miners."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from allowance import clock
from allowance.follow.reports import reported
from allowance.follow.sources import ChainBlock, CollateralSource, SourceError
from allowance.plumbing.calls import Calls
from allowance.plumbing.threads import in_database_thread

EVERY = 50
"""The number of blocks from one reading to the next: ten minutes."""

DEADLINE = 30.0
"""The maximum time (s) to read the collateral of all miners, in several requests."""


class AllUnknown(SourceError):
    """A source answered for none of the addresses. `wait` gives a node that lags the time to catch up."""

    wait = 60.0

    def __init__(self, source: str, block: int, addresses: int) -> None:
        self.source, self.block, self.addresses = source, block, addresses
        super().__init__(
            f"The source {source} answers for none of the {addresses} addresses at block {block}. The recorded "
            "collateral stays. Check that the node has this block and its state, and that EVM_URL is its address."
        )


class Reading(NamedTuple):
    """The input of `record_collaterals`: the Wei of the registered hotkeys whose collateral is known at a block."""

    block: int
    wei: dict[str, int]


def divided(addresses: Mapping[str, str], deposits: Mapping[str, int]) -> dict[str, int]:
    """Return the Wei of the hotkeys with an address in `deposits`. Hotkeys that share an address get equal parts.

    `addresses` has the EVM addresses of hotkeys. A deposit counts once, so a part is rounded down.
    """
    sharers = shared(addresses)
    return {hotkey: deposits[a] // len(sharers[a]) for hotkey, a in addresses.items() if a in deposits}


def shared(addresses: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the hotkeys of each address, ordered."""
    hotkeys: dict[str, list[str]] = {}
    for hotkey, address in sorted(addresses.items()):
        hotkeys.setdefault(address, []).append(hotkey)
    return hotkeys


class CollateralLoop:
    """The loop of the collateral. `block` returns the newest recorded block, which is final; `write` records a reading.

    `addresses_at` returns the EVM addresses by uid at a block, as ChainSource.evm_addresses does.

    A registered hotkey without an EVM address has collateral 0. A collateral that is unknown is never 0: the recorded
    one stays, and `detail` says since when it is unknown. A hotkey that is no longer registered keeps its collateral.
    """

    name = "collateral"

    def __init__(
        self,
        source: CollateralSource,
        block: Callable[[], Awaitable[ChainBlock | None]],
        addresses_at: Callable[[int], Awaitable[Mapping[int, str]]],
        write: Callable[[Reading], None],
        *,
        poll: float,
    ) -> None:
        self.source, self.adapter, self.block, self.write = source, source.name, block, write
        self.addresses_at, self.poll = addresses_at, poll
        self.calls = Calls()
        self.detail: dict[str, Any] = {}
        self.newest: int | None = None
        """The block of the newest reading of this process."""

    async def step(self) -> float:
        """Read the collateral, if a reading is due, and record it. Raises what `read` raises."""
        block = await self.block()
        if block is not None and self._is_due(block.number):
            await in_database_thread(self.write)(await self.read(block))
            self.newest = block.number
        return self.poll

    async def read(self, block: ChainBlock) -> Reading:
        """Read the collateral at a block, and return what can be recorded.

        Raises AllUnknown, and the errors of the sources. Then the source is renewed: it may be the wrong node.
        """
        if not self.detail:
            self.detail = await in_database_thread(reported)(self.name)
        by_uid = await self.calls.make("evm_addresses", self.addresses_at(block.number))
        addresses = {neuron.hotkey: by_uid[neuron.uid] for neuron in block.neurons if neuron.uid in by_uid}
        asked = sorted(set(addresses.values()))
        try:
            deposits = await self.calls.make("collateral", self.source.collateral(block.number, asked), DEADLINE)
            known = divided(addresses, deposits)
            await self._remember(block.number, addresses, known)
            if asked and not known:
                raise AllUnknown(self.source.name, block.number, len(asked))
        except Exception:
            await self.source.renew()
            raise
        none = {neuron.hotkey: 0 for neuron in block.neurons if neuron.hotkey not in addresses}
        return Reading(block.number, none | known)

    async def close(self) -> None:
        """Close the connections of the source."""
        await self.source.close()

    def _is_due(self, block: int) -> bool:
        return self.newest is None or not self.newest <= block < self.newest + EVERY  # blocks may have been forgotten

    async def _remember(self, block: int, addresses: Mapping[str, str], known: Mapping[str, int]) -> None:
        """Store in `detail` what was read, and for each unknown collateral since when it is unknown."""
        since, now = self.detail.get("unknown", {}), await in_database_thread(clock.now)()
        self.detail = {
            "block": block,
            "contract": self.source.contract,
            "associated": len(addresses),
            "unknown": {name: since.get(name, now.isoformat()) for name in sorted(addresses.keys() - known.keys())},
            "shared": {address: names for address, names in sorted(shared(addresses).items()) if len(names) > 1},
        }
