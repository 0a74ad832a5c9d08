"""The measures of the chain follower and its sources. `routing.apps` imports this module, which registers them."""

from __future__ import annotations

from allowance.interface import MANY
from routing.watch.findings import DAY, Level, Limits, ago
from routing.watch.followed import BLOCKS, COLLATERAL, MANIFESTS, RECEIPTS, SETTINGS
from routing.watch.measures import Hour, Taken, measure

NAMED = 2
"""Maximum number of blocks, or of addresses, that a sentence names."""


@measure(
    "s",
    "Start manage.py follow_chain and read its log, unless another program records the chain.",
    Limits(60, 300),
    without=Level.INFO,
)
def follower_heartbeat(hour: Hour) -> Taken:
    follower = hour.followed.follower
    if follower is None:
        return None, "No chain follower has ever run here."
    age = hour.followed.age(follower.seen_at)
    return age, f"The chain follower ({follower.leader}) was last seen {ago(age)}."


def _measure_source(name: str, advice: str, limits: Limits) -> None:
    def take(hour: Hour) -> Taken:
        report = hour.followed.reports.get(name)
        if report is None:
            return None, f"No chain follower reads the {name}."
        since = report.good_at or report.failed_at
        if since is None:
            return None, f"The source of the {name} has not answered yet."
        age = hour.followed.age(since)
        did = "gave its last good answer" if report.good_at else "has given no good answer and first failed"
        last = f"The source of the {name} ({report.adapter}) {did} {ago(age)}."
        failed = f" Failures since then: {report.failures}. The newest: {report.error}" if report.failures else ""
        return age, last + failed

    take.__name__ = f"source_{name}"
    measure("s", advice, limits)(take)


_measure_source(
    BLOCKS,
    "Check the node or the Pylon service that the follower reads, and the follower's log.",
    Limits(60, 300),
)
_measure_source(
    MANIFESTS,
    "Check the network of this host, and the follower's log.",
    Limits(900, 3600),
)
_measure_source(
    COLLATERAL,
    "Check EVM_URL and COLLATERAL_CONTRACT, and the follower's log.",
    Limits(1800, 7200),
)
_measure_source(
    RECEIPTS,
    "Check the network of this host, and the follower's log. Without new receipts, miners may look busy that are not.",
    Limits(300, 1800),
)
_measure_source(
    SETTINGS,
    "Check the document that ROUTING_DYNAMIC_FROM names, and the follower's log.",
    Limits(900, 3600),
)


@measure("", "Check what the error names, and the follower's log.", Limits(2, 1000))
def failures_in_a_row(hour: Hour) -> Taken:
    failing = max(hour.followed.reports.values(), key=lambda each: each.failures, default=None)
    if failing is None or not failing.failures:
        return 0, "No source of the chain follower fails."
    fact = f"Failures of the source of the {failing.name} in a row: {failing.failures}. The newest: {failing.error}"
    return failing.failures, fact


@measure("", "Update the libraries of the extra `live`.", Limits(0, MANY))
def unreadable_blocks(hour: Hour) -> Taken:
    blocks = hour.followed.blocks
    facts = [
        f"Block {number} can't be decoded (runtime {runtime or 'unknown'}): {reason.rstrip('.')}."
        for number, runtime, reason in blocks.unreadable[:NAMED]
    ]
    if (more := len(blocks.unreadable) - NAMED) > 0:
        facts.append(f"Others like it: {more} or more.")
    return len(blocks.unreadable), " ".join(facts) or "The chain follower reports no such block."


@measure("", "Set SUBTENSOR_ARCHIVE_URL.", Limits(0, MANY))
def discarded_blocks(hour: Hour) -> Taken:
    discarded, before = hour.followed.discarded, hour.followed.discarded_before
    facts = []
    if before:
        facts.append(before_the_ledger(before))
    if discarded:
        facts.append(f"Missing blocks that the node has discarded: {discarded}.")
    return discarded, " ".join(facts) or "The chain follower reports no such block."


def before_the_ledger(blocks: int) -> str:
    """Return what the loss of so many blocks means, if they are older than the first recorded block."""
    return (
        f"{blocks} block{'s' if blocks > 1 else ''} from before the ledger began can't be read any more. "
        f"{'They' if blocks > 1 else 'It'} would have earned nothing."
    )


@measure("", "Until a sync is recorded, the manifests before it count.", Limits(0, 1))
def manifests_held_back(hour: Hour) -> Taken:
    held_back = hour.followed.manifests.held_back
    return (1, held_back) if held_back else (0, "The chain follower has held back no sync of manifests.")


@measure("s", "Check EVM_URL. Until then the last known collateral counts.", Limits(3600, DAY))
def unknown_collateral(hour: Hour) -> Taken:
    unknown = hour.followed.collateral.unknown
    if not unknown:
        return 0, "The chain follower reports no unknown collateral."
    hotkey = min(unknown, key=lambda each: unknown[each])
    age = hour.followed.age(unknown[hotkey])
    return age, f"The collateral of {len(unknown)} miners is unknown. That of {hotkey} became unknown {ago(age)}."


@measure(
    "",
    "The deposit of a shared address is divided among its hotkeys. The Sources page lists them.",
    Limits(0, 0),
    without=Level.INFO,
)
def shared_collateral(hour: Hour) -> Taken:
    shared = hour.followed.collateral.shared
    if not shared:
        return 0, "The chain follower reports no EVM address with several hotkeys."
    named = ", ".join(f"{address} ({len(hotkeys)})" for address, hotkeys in sorted(shared.items())[:NAMED])
    more = f" and {len(shared) - NAMED} more" if len(shared) > NAMED else ""
    return None, f"EVM addresses with several hotkeys: {named}{more}."
