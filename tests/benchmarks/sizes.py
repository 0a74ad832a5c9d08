"""How much the benchmark seeds, and how long it measures: in full, and small, to see that it works at all."""

from __future__ import annotations

from dataclasses import dataclass, replace

FIRST_BLOCK = 10_000
"""The number of the first block that a seeded database has."""


@dataclass(frozen=True)
class Subnet:
    """What a seeded database holds: `blocks` that earned, and what miners and validators did in them.

    `changing` is the share of miners that declare one executor more in a manifest, and so void their past when they
    take it back in the next. `scripted` miners have the hotkeys of tests.live.miners.
    """

    miners: int
    blocks: int
    classes: int = 2
    executors: int = 8
    changing: float = 0.05
    incidents: int = 0
    receipts: int = 0
    ongoing: int = 0
    reservations: int = 0
    scripted: bool = False

    def __str__(self) -> str:
        return f"{self.miners:,} miners × {self.classes} classes, {self.blocks} blocks"

    @property
    def history(self) -> Subnet:
        """The same without what miners and validators did."""
        return replace(self, incidents=0, receipts=0, ongoing=0, reservations=0)


@dataclass(frozen=True)
class Scale:
    """The sizes of a whole benchmark. A turn has `stretch` operations, or lasts `seconds` if it gives a rate."""

    usual: Subnet
    short_history: int
    few_miners: int
    many_miners: int
    very_many: Subnet
    past_reservations: int
    past_receipts: int
    served_receipts: int
    past_incidents: int
    crowded: Subnet
    crowd: int
    processes: int
    tasks: int
    connections: int
    dry_jobs: int
    rounds: int
    stretch: int
    slices: int
    seconds: float
    live_blocks: int
    missed_blocks: int


SCALES = {
    "full": Scale(
        usual=Subnet(256, 722, incidents=5000, receipts=20_000, ongoing=200, reservations=2000),
        short_history=100,
        few_miners=64,
        many_miners=1024,
        very_many=Subnet(10_000, 30, classes=5),
        past_reservations=100_000,
        past_receipts=1_000_000,
        served_receipts=10_000,
        past_incidents=500_000,
        crowded=Subnet(8, 722, classes=1, executors=4, changing=0),
        crowd=8,
        processes=4,
        tasks=16,
        connections=50,
        dry_jobs=1000,
        rounds=40,
        stretch=5,
        slices=5,
        seconds=1.0,
        live_blocks=50,
        missed_blocks=60,
    ),
    "small": Scale(
        usual=Subnet(16, 30, executors=50, incidents=50, receipts=100, ongoing=5, reservations=20),
        short_history=20,
        few_miners=8,
        many_miners=24,
        very_many=Subnet(40, 10, classes=5),
        past_reservations=200,
        past_receipts=300,
        served_receipts=600,
        past_incidents=200,
        crowded=Subnet(4, 60, classes=1, executors=2, changing=0),
        crowd=2,
        processes=2,
        tasks=4,
        connections=4,
        dry_jobs=4,
        rounds=2,
        stretch=2,
        slices=1,
        seconds=0.2,
        live_blocks=2,
        missed_blocks=3,
    ),
}
