"""What a prune may forget: whatever is asked afterwards, the answer must be the one that it would have been."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from typing import Any

from allowance.models import Block
from receipts.models import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt
from routing.models import MinerIncident
from tests.naive import KEPT_BLOCKS, Subnet
from tests.properties.asks import Policy
from tests.properties.chain import CLASSES, MINERS
from tests.properties.judge import Violation

SLACK = dt.timedelta(seconds=3700)
"""A host's clock may be so far behind that of the one that prunes."""

RECEIPTS: dict[str, Any] = {
    "job_started": JobStartedReceipt,
    "job_accepted": JobAcceptedReceipt,
    "job_finished": JobFinishedReceipt,
}


def forget(model: Subnet, reservations: Collection[int], now: dt.datetime, policy: Policy) -> None:
    """Let the model forget these reservations, and all else that the database has forgotten.

    Raises Violation if something did not end, or if that changes an answer, of now or of a clock that is behind.
    """
    before = outlook(model, now, policy)
    for pk in reservations:
        if model.ends[pk] == "spent" and max(model.bookings[pk].blocks) >= model.newest - KEPT_BLOCKS:
            raise Violation(f"{model.bookings[pk]} is spent and was pruned.")
        del model.bookings[pk], model.ends[pk]
    for kind, table in RECEIPTS.items():
        left = {str(uuid) for uuid in table.objects.values_list("job_uuid", flat=True)}
        for uuid in model.receipts(kind).keys() - left:
            del model.receipts(kind)[uuid]
    incidents = {(i.hotkey_ss58address, str(i.job_uuid)) for i in MinerIncident.objects.all()}
    for key in model.incidents.keys() - incidents:
        del model.incidents[key]
    forget_blocks(model, set(Block.objects.values_list("number", flat=True)), now)
    after = outlook(model, now, policy)
    if odd := [what for what in before if before[what] != after[what]]:
        changed = "; ".join(f"{what}: {before[what]}, now {after[what]}" for what in odd)
        raise Violation(f"Pruning changed an answer. {changed}")


def forget_blocks(model: Subnet, left: set[int], now: dt.datetime) -> None:
    """Let the model forget the blocks that are not left: some of the oldest, of which no balance knows."""
    gone = model.blocks.keys() - left
    if not gone:
        return
    oldest = max(n for n, (at, _) in model.blocks.items() if n <= model.newest - KEPT_BLOCKS and at <= now - SLACK)
    if not max(gone) < min(left) <= oldest:
        raise Violation(f"Blocks {sorted(gone)} were pruned; {oldest} and all after it, and the newest of them, stay.")
    model.settle(oldest, gone)


def outlook(model: Subnet, now: dt.datetime, policy: Policy) -> dict[tuple[object, ...], object]:
    """Return what the model answers to whatever may be asked of it, by a clock that is behind, now and later."""
    answers: dict[tuple[object, ...], object] = {("registered",): model.registered()}
    hours = dt.timedelta(hours=policy[1])
    for at in (now - SLACK, now, now + SLACK):
        for cls in CLASSES:
            answers["busy", cls, at] = model.busy(cls, at)
            for miner in MINERS:
                answers["incidents", miner, cls, at] = sum(
                    (i["hotkey"], i["executor_class"]) == (miner, cls)
                    and at - hours <= dt.datetime.fromisoformat(i["timestamp"])
                    for i in model.incidents.values()
                )
                answers["ongoing", miner, cls, at] = model.ongoing(miner, cls, at)
                for start in (model.newest, model.newest - 300):
                    answers["free", miner, cls, at, start] = model.free(miner, cls, start, at)
                    answers["unspent", miner, cls, at, start] = model.unspent(miner, cls, start, at)
    return answers
