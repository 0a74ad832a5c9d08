"""The real code's answers, in the words of the naive model; and what the model says to the same."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

from constance import config

from allowance import allowance, clock, ledger
from allowance.oversight import forgetting
from allowance.oversight.audit import check_ledger
from allowance.types import AllowanceException, CannotReserveAllowanceException, NotEnoughAllowanceException
from routing import routing, service
from routing.decision.book import DryBook
from routing.decision.model import Decision
from routing.decision.pipeline import decide
from routing.requests import V2JobRequest
from routing.types import TRUSTED_MINER_FAKE_KEY, JobRoutingException
from routing.upkeep import pruning
from routing.upkeep.entries import parse
from tests.factories import job_request
from tests.naive import Job, Refusal, Route, Subnet, bad_seconds
from tests.properties.history import Do

OK = "ok"

Policy = tuple[int, float, int]
"""The least collateral (Wei), the window (hours), and the number of unused blocks."""


def ask(do: Do, decisions: list[Decision] | None = None) -> Any:
    """Do it, with the real code, and return its answer or its refusal; a pick may tell its decision too."""
    try:
        if do.get("ask") == "pick":
            return pick(do, [] if decisions is None else decisions)
        return parse(json.dumps(do)).apply() or OK if "event" in do else ASKS[do["ask"]](do)
    except (AllowanceException, JobRoutingException, ValueError) as error:
        return refused(error)


def refused(error: Exception) -> Refusal:
    if isinstance(error, NotEnoughAllowanceException):
        amounts = (error.highest_available_allowance, error.highest_unspent_allowance)
        return Refusal(type(error).__name__, *map(to_ns, amounts))
    if isinstance(error, CannotReserveAllowanceException):
        return Refusal(type(error).__name__, to_ns(error.available))
    return Refusal("ValueError" if isinstance(error, ValueError) else type(error).__name__)


def to_ns(seconds: float) -> int:
    return round(seconds * ledger.NS)


def request(do: Do) -> V2JobRequest:
    """Return the wire message of a pick."""
    names = ("download_time_limit", "execution_time_limit", "upload_time_limit")
    limits = dict(zip(names, do["limits"], strict=True))
    what = {"uuid": do["uuid"], "executor_class": do["executor_class"], "on_trusted_miner": do["trusted"]}
    return job_request(**what, **limits)


def pick(do: Do, decisions: list[Decision]) -> tuple[Route, int | None]:
    """Pick, by the public method, or by the function behind it, which tells its decision."""
    if do["whole"]:
        decision = service.pick(request(do), exclude=do["exclude"])
        decisions.append(decision)
        if decision.route is None:
            raise decision.refusal
        route = decision.route
    else:
        route = routing().pick(request(do), exclude=do["exclude"])
    blocks = None if route.allowance_blocks is None else tuple(route.allowance_blocks)
    return Route(route.miner.hotkey_ss58, blocks), route.allowance_reservation_id


def reserve(do: Do) -> tuple[Route, int]:
    pk, blocks = allowance().reserve_allowance(
        miner=do["miner"],
        executor_class=do["executor_class"],
        allowance_seconds=do["seconds"],
        job_start_block=do["start"],
        job_uuid=do["uuid"],
    )
    return Route(do["miner"], tuple(blocks)), pk


def find(do: Do) -> list[tuple[str, int]]:
    found = allowance().find_miners_with_allowance(
        allowance_seconds=do["seconds"], executor_class=do["executor_class"], job_start_block=do["start"]
    )
    return [(hotkey, to_ns(seconds)) for hotkey, seconds in found]


def end(do: Do) -> str:
    spend, undo = allowance().spend_allowance, allowance().undo_allowance_reservation
    (spend if do["ask"] == "spend" else undo)(do["id"])
    return OK


def repair(do: Do) -> str:
    """Repair, and say whether there was something to mend."""
    return "mended" if list(check_ledger(repair=True)) else OK


def prune(do: Do) -> str:
    """Prune, and say what was passed over."""
    batches = (batch for kind in pruning.kinds(clock.now(), do["batch"]) for batch in kind.prune())
    return " ".join(batch.locked for batch in batches if batch.locked) or OK


def forget(do: Do) -> str:
    forgetting.forget_blocks(do["first"], release_held=do["release"])
    return OK


def policy(do: Do) -> str:
    config.DYNAMIC_MINIMUM_COLLATERAL_AMOUNT_WEI = do["wei"]
    config.DYNAMIC_ROUTING_RELIABILITY_WINDOW_HOURS = do["hours"]
    config.DYNAMIC_ROUTING_UNUSED_BLOCKS = do["unused"]
    return OK


ASKS = {
    "reserve": reserve,
    "find": find,
    "spend": end,
    "undo": end,
    "repair": repair,
    "prune": prune,
    "forget": forget,
    "policy": policy,
}


def rehearse(do: Do) -> Any:
    """Do a pick in thought, and return the decision, or its refusal by the gates that come before it."""
    try:
        return decide(request(do), DryBook(), exclude=do["exclude"])
    except (AllowanceException, ValueError) as error:
        return refused(error)


def same_as_dry(dry: Decision | Refusal, answer: Any, live: list[Decision]) -> bool:
    """Tell whether the live pick did what the dry run said it would, for the same reasons (invariant 6)."""
    if isinstance(dry, Refusal):
        return bool(dry == answer)
    if any(decision.candidates != dry.candidates for decision in live):
        return False
    if dry.route is None:
        return bool(refused(dry.refusal) == answer)
    blocks = dry.route.allowance_blocks
    said = Route(dry.route.miner.hotkey_ss58, None if blocks is None else tuple(blocks))
    return not isinstance(answer, Refusal) and bool(answer[0] == said)


def wanted(do: Do, policy: Policy) -> Job:
    """Return the job of a pick as the model knows it."""
    return Job(do["uuid"], do["executor_class"], sum(do["limits"]), do["exclude"], *policy)


def bad_pick(do: Do) -> Refusal | None:
    """Return the refusal of a request that no miner is asked about."""
    seconds = sum(do["limits"])
    if problem := "ValueError" if min(do["limits"]) < 0 else bad_seconds(seconds):
        return Refusal(problem)
    return Refusal("ValueError") if do["uuid"] == "not-a-uuid" else None


def expect(do: Do, model: Subnet, policy: Policy, now: dt.datetime) -> Any:
    """Return what the model answers, as `ask` would; the ids of reservations are None."""
    if "event" in do:
        try:
            model.copy().event(do, now)
        except ValueError:
            return Refusal("ValueError")
        return OK
    match do["ask"]:
        case "pick":
            if do["trusted"]:
                return Route(TRUSTED_MINER_FAKE_KEY, None)
            return bad_pick(do) or model.pick(wanted(do, policy), now)
        case "reserve":
            if problem := bad_seconds(do["seconds"]):
                return Refusal(problem)
            if do["uuid"] == "not-a-uuid":
                return Refusal("ValueError")
            which = do["miner"], do["executor_class"]
            blocks = model.take(*which, do["seconds"], do["start"], now)
            free = sum(model.free(*which, do["start"], now).values())
            return Route(do["miner"], blocks) if blocks else Refusal("CannotReserveAllowanceException", free)
        case "find":
            return model.find(do["seconds"], do["executor_class"], do["start"], now)
        case "forget":
            return Refusal("BlocksInUse") if model.keeps(do["first"], now, release=do["release"]) else OK
        case "spend" | "undo":
            return model.ending(do["id"], now) or OK
        case _:
            return OK
