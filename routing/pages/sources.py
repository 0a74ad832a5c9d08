"""The sources of the ledger: what the chain follower reads, how far it is, and which miners are silent."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator, Mapping
from itertools import groupby
from typing import NamedTuple

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from allowance.interface import BLOCK_EXPIRY, Block, clock
from allowance.plumbing.console import to_the_second
from routing.pages import SEE_MINER, SEE_SOURCES, miner_link, needs, show
from routing.watch.findings import Finding, Level, ago, lasting, own_limits
from routing.watch.followed import SOURCES, Detail, Followed, MinerReceipts
from routing.watch.follower_measures import before_the_ledger
from routing.watch.measures import MEASURES, Hour

SHOWN = BLOCK_EXPIRY + 300
"""Number of blocks before the newest one in the strip. The chain follower fills the gaps between them."""

RECORDED, MISSING, WAITING = STATES = ("recorded", "missing", "waiting")
"""The states of blocks, which are CSS classes too. A waiting block is newer than all recorded ones."""

TONES = {Level.OK: "good", Level.WARNING: "warn", Level.CRITICAL: "bad"}


class Part(NamedTuple):
    """A run of blocks with the same state. `x` is the number of blocks to its left in the strip."""

    first: int
    last: int
    state: str
    x: int

    @property
    def blocks(self) -> int:
        """The number of blocks."""
        return self.last - self.first + 1


class Figure(NamedTuple):
    """A value at the top of the page, and its meaning; `tone` is a CSS class."""

    name: str
    value: str
    meaning: str
    tone: str = ""


@needs(*SEE_SOURCES)
@require_safe
def sources_page(request: HttpRequest) -> HttpResponse:
    """Show what the chain follower has stored, and the newest blocks as a strip."""
    hour, own = Hour(clock.now()), own_limits(MEASURES)
    followed = hour.followed
    parts = strip(newest_blocks(), followed.follower.head if followed.follower else None)
    counts = {state: sum(part.blocks for part in parts if part.state == state) for state in STATES}

    def miner(hotkey: str) -> str:
        return miner_link(hotkey) if request.user.has_perms(SEE_MINER) else hotkey

    def found(name: str) -> Finding:
        return MEASURES[name].find(hour, own)

    def since(then: dt.datetime | None, never: str = "never") -> str:
        return never if then is None else f"{to_the_second(then)}, {ago(followed.age(then))}"

    may_fail = found("failures_in_a_row").limits
    told = [miner for miner in followed.receipts.miners.items() if _has_something_to_tell(miner[1])]
    return show(
        request,
        "routing/sources.html",
        "Sources",
        followed=followed,
        figures=_figures(followed, found("follower_heartbeat"), counts),
        leads_since=since(followed.follower.leads_since) if followed.follower else "",
        sources=[
            (name, report, since(report.good_at), found(f"source_{name}"), may_fail.level(report.failures))
            for name in SOURCES
            if (report := followed.reports.get(name))
        ],
        calls=[*_calls(followed)],
        parts=parts,
        counts=counts,
        size=sum(counts.values()),
        before=before_the_ledger(before) if (before := followed.discarded_before) else "",
        silent=[(miner(hotkey), followed.manifests.reasons.get(hotkey, "")) for hotkey in followed.manifests.silent],
        why=_most_first(followed.manifests.why),
        unknown=[
            (miner(hotkey), since(then))
            for hotkey, then in sorted(followed.collateral.unknown.items(), key=lambda each: (each[1], each[0]))
        ],
        shared=[
            (address, [miner(hotkey) for hotkey in hotkeys])
            for address, hotkeys in sorted(followed.collateral.shared.items())
        ],
        refused=_most_first(followed.receipts.refused),
        receipts=[
            (miner(hotkey), seen, since(seen.good_at), since(seen.silent_since, ""))
            for hotkey, seen in sorted(told, key=_worst_first)
        ],
        others=len(followed.receipts.miners) - len(told),
    )


def newest_blocks() -> list[int]:
    """Return the numbers of the newest SHOWN + 1 recorded blocks, the newest first. One query."""
    return [*Block.objects.order_by("-number").values_list("number", flat=True)[: SHOWN + 1]]


def strip(numbers: Collection[int], head: int | None) -> list[Part]:
    """Return the newest SHOWN + 1 blocks up to the `head` of the chain as runs of the same state.

    `numbers` are the recorded blocks that `newest_blocks` returned. Blocks before the first recorded one are left out.
    """
    if not numbers:
        return []
    newest, recorded = max(numbers), set(numbers)
    last = max(newest, head or 0)
    first = last - SHOWN if len(numbers) > SHOWN else max(min(numbers), last - SHOWN)

    def state(number: int) -> str:
        return RECORDED if number in recorded else WAITING if number > newest else MISSING

    runs = [(name, [*run]) for name, run in groupby(range(first, last + 1), key=state)]
    return [Part(run[0], run[-1], name, run[0] - first) for name, run in runs]


def _figures(followed: Followed, heartbeat: Finding, counts: dict[str, int]) -> list[Figure]:
    """Return the figures; none if no follower has ever run."""
    follower, lag = followed.follower, followed.blocks.lag_seconds
    if follower is None:
        return []
    took = "" if lag is None else f"; the newest was recorded {lasting(lag)} after it was minted"
    seen = "" if follower.head_at is None else f"first seen {ago(followed.age(follower.head_at))}"
    return [
        Figure(
            "Heartbeat",
            ago(followed.age(follower.seen_at)),
            f"of {follower.leader}",
            TONES.get(heartbeat.level, ""),
        ),
        Figure("Newest finalized block", "none" if follower.head is None else str(follower.head), seen),
        Figure("Waiting", f"{counts[WAITING]:,}", f"finalized blocks that are not recorded yet{took}"),
        Figure(
            "Missing",
            f"{counts[MISSING]:,}",
            f"of the last {sum(counts.values()):,} blocks",
            "warn" if counts[MISSING] else "good",
        ),
    ]


def _calls(followed: Followed) -> Iterator[tuple[str, str, int, int, str]]:
    """Yield the source, the method, the calls, the errors and the mean time of each kind of call."""
    for name, report in followed.reports.items():
        for method, (calls, errors, seconds) in sorted(Detail.of(report).calls.items()):
            yield name, method, int(calls), int(errors), f"{1000 * seconds / calls:,.0f} ms" if calls else "–"


def _most_first(numbers: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(numbers.items(), key=lambda each: (-each[1], each[0]))


def _has_something_to_tell(seen: MinerReceipts) -> bool:
    return bool(seen.taken or seen.refused or seen.silent_since)


def _worst_first(miner: tuple[str, MinerReceipts]) -> tuple[bool, float, int, str]:
    """Return the place of a miner: those silent for longest first, then those with the most refused receipts."""
    hotkey, seen = miner
    silent = seen.silent_since
    return silent is None, silent.timestamp() if silent else 0.0, -seen.refused, hotkey
