"""The executors that miners have published on the chain, in the Commitments pallet.

A miner publishes an envelope such as <M:A3;S2> anywhere in its commitment: a letter for each class, with the count. The
miner has signed it, but it does not say that the miner is alive.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from allowance.follow.sources import ChainBlock, ChainSource, Manifests, Neuron
from allowance.types import ExecutorClass

CLASSES = {
    b"S": ExecutorClass.spin_up_4min__gpu_24gb,
    b"A": ExecutorClass.always_on__gpu_24gb,
    b"L": ExecutorClass.always_on__llm__a6000,
    b"T": ExecutorClass.always_on__test,
    b"C": ExecutorClass.always_on__cpu__8c__16gb,
}

MAX_COMMITMENT = 1024
"""Bytes that are searched. The chain takes about 128 from a hotkey."""

ENVELOPE = re.compile(rb"<M:([^>]*)>")
ENTRY = re.compile(rb"[ \t]*([A-Z])([0-9]{1,9})[ \t]*")


def manifest_in(commitment: bytes) -> dict[str, object] | None:
    """Return the executor counts by class in a commitment, or None if it has no envelope.

    The first envelope counts. An empty one says that the miner has paused: no executors. An entry that is not a known
    letter and a count of at most 9 digits is left out. If a class has several entries, the last one counts.
    """
    envelope = ENVELOPE.search(commitment[:MAX_COMMITMENT])
    if not envelope:
        return None
    entries = [ENTRY.fullmatch(entry) for entry in envelope[1].split(b";")]
    return {CLASSES[entry[1]].value: int(entry[2]) for entry in entries if entry and entry[1] in CLASSES}


class Commitments:
    """The chain as the source of the miners' executors.

    `silences` says for each miner that is registered, and that did not answer when it was last asked, why.
    """

    name = "commitments"

    def __init__(self, chain: ChainSource) -> None:
        self.chain = chain
        self.silences: dict[str, str] = {}

    async def manifests(self, block: ChainBlock, miners: Sequence[Neuron]) -> Manifests:
        """Return what the `miners` have published at a block. Raises the errors of the chain's source."""
        published = await self.chain.commitments(block.number)
        found = {miner.hotkey: manifest_in(published.get(miner.hotkey, b"")) for miner in miners}
        registered = {neuron.hotkey for neuron in block.neurons} - found.keys()
        self.silences = {hotkey: reason for hotkey, reason in self.silences.items() if hotkey in registered}
        self.silences |= {hotkey: "It has published no manifest." for hotkey in found if found[hotkey] is None}
        return {hotkey: manifest for hotkey, manifest in found.items() if manifest is not None}
