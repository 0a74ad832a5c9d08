"""Recompute the derived values of accounts and miners from the whole history of the chain."""

from __future__ import annotations

from collections import defaultdict

from allowance import ledger
from allowance.chain import Axon, declared_step, presence_history
from allowance.ledger import Steps
from allowance.models import ManifestSync

Declared = tuple[int, int, Steps]
"""The correct values of an account: its executors, the block before which it is voided, and its counts by block."""

NOTHING_DECLARED: Declared = (0, 0, ())


def presence() -> defaultdict[str, Steps]:
    """Return the presence of each miner, by hotkey: 1 in blocks at which it is registered, 0 in others."""
    steps: defaultdict[str, Steps] = defaultdict(tuple)
    previous: set[str] = set()
    for number, names in presence_history():
        for name in names ^ previous:
            steps[name] = ledger.assign(steps[name], int(name in names), max(0, number))
        previous = names
    return steps


def declared() -> defaultdict[tuple[str, str], Declared]:
    """Return the correct values of each account, by (hotkey, class). The syncs apply in the order of recording."""
    accounts: defaultdict[tuple[str, str], Declared] = defaultdict(lambda: NOTHING_DECLARED)
    for sync in ManifestSync.objects.order_by("pk").iterator():
        counts = {(name, cls): n for name, of_miner in sync.executors.items() for cls, n in of_miner.items() if n}
        for key in accounts.keys() | counts.keys():
            if key[0] in sync.axons:
                accounts[key] = declared_step(accounts[key], sync.block, counts.get(key, 0))
    return accounts


def announced() -> dict[str, Axon]:
    """Return the last axon that each miner announced, by hotkey."""
    axons: dict[str, Axon] = {}
    for said in ManifestSync.objects.order_by("pk").values_list("axons", flat=True).iterator():
        axons.update(said)
    return axons
