"""What the chain follower has stored for other processes: its row, and the reports of its sources."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from django.db.models import Min
from pydantic import BaseModel, ValidationError

from allowance.interface import Block, Follower, SourceReport

BLOCKS, MANIFESTS, COLLATERAL, RECEIPTS, SETTINGS = SOURCES = (
    "blocks",
    "manifests",
    "collateral",
    "receipts",
    "settings",
)
"""The names of the sources, in display order."""


class Detail(BaseModel):
    """The detail of a report. Each key may be missing. `calls` has the number, the errors and the seconds by method."""

    calls: Mapping[str, tuple[float, float, float]] = {}

    @classmethod
    def of(cls, report: SourceReport | None) -> Self:
        """Return the detail of a report. Without a report, or if another version wrote it, return an empty one."""
        try:
            return cls.model_validate(report.detail if report else {})
        except ValidationError:
            return cls()


class BlocksDetail(Detail):
    """The detail of the source of blocks. `unreadable` lists blocks with the runtime's version and the reason.

    `gaps` are the ranges [first, last] of missing blocks, ascending. The first `discarded` of these blocks are those
    that the node has discarded.
    """

    newest: int | None = None
    lag_blocks: int | None = None
    lag_seconds: float | None = None
    gaps: tuple[tuple[int, int], ...] | None = None
    discarded: int = 0
    unreadable: tuple[tuple[int, int | None, str], ...] = ()


class ManifestsDetail(Detail):
    """The detail of the source of manifests. `held_back` says why the last sync was not recorded, or is empty.

    `why` is the number of miners that did not answer, by reason. `reasons` are those of the `silent` ones.
    """

    block: int | None = None
    asked: int | None = None
    answered: int | None = None
    silent: tuple[str, ...] = ()
    reasons: Mapping[str, str] = {}
    why: Mapping[str, int] = {}
    held_back: str = ""
    clipped: int = 0


class CollateralDetail(Detail):
    """The detail of the source of collateral: since when it is unknown by hotkey, and the hotkeys by shared address."""

    block: int | None = None
    contract: str = ""
    associated: int | None = None
    unknown: Mapping[str, dt.datetime] = {}
    shared: Mapping[str, tuple[str, ...]] = {}


class MinerReceipts(BaseModel):
    """The receipts of a miner. `silent_since` is the time of the first failure since the last good answer."""

    taken: int = 0
    refused: int = 0
    good_at: dt.datetime | None = None
    silent_since: dt.datetime | None = None


class ReceiptsDetail(Detail):
    """The detail of the source of receipts: those refused by reason, and those of each miner."""

    taken: int | None = None
    refused: Mapping[str, int] = {}
    miners: Mapping[str, MinerReceipts] = {}


@dataclass(frozen=True)
class Followed:
    """The row of the chain follower, and the reports of its sources by name. All are missing if it has never run.

    `first_block` is the number of the first recorded block, or None. Blocks missing before it are no gaps.
    """

    at: dt.datetime
    follower: Follower | None
    reports: Mapping[str, SourceReport]
    first_block: int | None = None

    @cached_property
    def blocks(self) -> BlocksDetail:
        return BlocksDetail.of(self.reports.get(BLOCKS))

    @cached_property
    def manifests(self) -> ManifestsDetail:
        return ManifestsDetail.of(self.reports.get(MANIFESTS))

    @cached_property
    def collateral(self) -> CollateralDetail:
        return CollateralDetail.of(self.reports.get(COLLATERAL))

    @cached_property
    def receipts(self) -> ReceiptsDetail:
        return ReceiptsDetail.of(self.reports.get(RECEIPTS))

    @property
    def missing(self) -> int | None:
        """The number of missing blocks after the first recorded one; None if it is unknown."""
        gaps = self.blocks.gaps
        if gaps is None or self.first_block is None:
            return None
        return sum(max(last - max(first, self.first_block) + 1, 0) for first, last in gaps)

    @property
    def discarded(self) -> int:
        """The number of discarded blocks after the first recorded one."""
        return self.blocks.discarded - self.discarded_before

    @property
    def discarded_before(self) -> int:
        """The number of discarded blocks before the first recorded one. They would have earned nothing."""
        missing = sum(last - first + 1 for first, last in self.blocks.gaps or ())
        return min(missing - (self.missing or 0), self.blocks.discarded)

    def age(self, then: dt.datetime) -> float:
        """Return the seconds since `then`. It is 0 if the follower wrote `then` while the rows were read."""
        return max((self.at - then).total_seconds(), 0.0)


def read_followed(now: dt.datetime) -> Followed:
    """Return what the follower has stored. One query if it has never run, else three."""
    follower = Follower.objects.first()
    if follower is None:
        return Followed(now, None, {})
    reports = {report.name: report for report in SourceReport.objects.order_by("name")}
    return Followed(now, follower, reports, Block.objects.aggregate(first=Min("number"))["first"])
