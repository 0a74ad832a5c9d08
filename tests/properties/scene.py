"""A fixed scene in which each kind of action has something to do, again and again, for crashes at every point."""

from __future__ import annotations

import datetime as dt

from tests.naive import BLOCK_EXPIRY, KEPT_BLOCKS
from tests.properties.chain import CLASSES, MINERS, START, Event, job
from tests.properties.history import AFTER_COMMIT, BEFORE_COMMIT, STATEMENT, Action, Do, Step

MOST_STATEMENTS = 40
"""No action makes so many, but for a prune, which makes fewer than twice as many."""

BLOCKS = 12
CLOCK = {"ask": "clock", "seconds": 30 * 3600}
DAMAGE = ("held", "presence", "ns", "executors")


def setting() -> list[Step]:
    """Return the steps that make a small subnet: four miners, each with 10 blocks that are worth 18 s."""
    return [*map(plain, (block(n, MINERS if n == 0 else None) for n in range(BLOCKS))), plain(manifests(0, 3))]


def most_statements(kind: str) -> int:
    """Return a number of statements that no action of this kind makes."""
    return 2 * MOST_STATEMENTS if kind == "prune" else MOST_STATEMENTS


def crashes(kind: str) -> list[Step]:
    """Return a go of this kind for each point that may be: with a crash at the first statement, at the second, …"""
    statements = [(STATEMENT, nth) for nth in range(most_statements(kind))]
    points = [*statements, (BEFORE_COMMIT, 0), (AFTER_COMMIT, 0)]
    steps = []
    for go, point in enumerate(points):
        first, do, last = act(kind, go)
        steps += [*map(plain, first), Step((Action(0, do, point),)), *map(plain, last)]
    return steps


def races(schedules: int) -> list[Step]:
    """Return bursts of two picks for which only one miner is left, each in another order, and what undoes them."""
    steps = []
    for schedule in range(schedules):
        picks = [pick(2 * schedule + i) | {"exclude": ["bert", "cleo", "dora"]} for i in (0, 1)]
        steps.append(Step(tuple(Action(i, do) for i, do in enumerate(picks)), schedule))
        steps += [plain({"ask": "undo", "back": back}) for back in (0, 1)]
    return steps


def races_with_a_prune(schedules: int) -> list[Step]:
    """Return bursts of a pick and a prune that both have a expired hold of the same miner to tidy."""
    steps = []
    for schedule in range(schedules):
        reserve = {"ask": "reserve", "miner": "anna", "executor_class": CLASSES[0], "start": 1011, "seconds": 30}
        steps += [plain({**reserve, "uuid": None}), plain({"ask": "expire", "back": 0, "us": 0})]
        dos = [pick(schedule) | {"exclude": ["bert", "cleo", "dora"]}, {"ask": "prune", "batch": 100}]
        steps.append(Step(tuple(Action(i + 1, do) for i, do in enumerate(dos)), schedule))
        steps.append(plain({"ask": "undo", "back": 0}))
    return steps


def pick(go: int) -> Do:
    """Return a pick, the `go`-th, that any of the miners could take."""
    how = {"limits": [0, 30, 0], "exclude": [], "trusted": False, "whole": True}
    return {"ask": "pick", "uuid": job(100 + go), "executor_class": CLASSES[0], **how}


def plain(do: Do) -> Step:
    """Return the step that does this, on a router that never crashes."""
    return Step((Action(1, do),))


def act(kind: str, go: int) -> tuple[list[Do], Do, list[Do]]:  # noqa: PLR0912 (a case for each kind)
    """Return what an action of this kind does the `go`-th time, and what goes before it and after it."""
    uuid = job(100 + go)
    reserve = {"ask": "reserve", "miner": "bert", "executor_class": CLASSES[0], "start": 1011, "seconds": 30}
    undo = {"ask": "undo", "back": 0}
    receipt = {"event": kind, "job_uuid": uuid, "miner_hotkey": "anna", "validator_hotkey": "vali", "timestamp": 0}
    match kind:
        case "block":  # whose miners differ from the last one's
            return [], block(BLOCKS + go, MINERS[go % 2 :]), []
        case "manifests":
            return [], manifests(BLOCKS + go, 2 + go % 2), []
        case "collateral":
            return [], {"event": kind, "hotkey": "anna", "wei": str(go)}, []
        case "incident":
            what = {"type": "MINER_JOB_FAILED", "hotkey": "anna", "job_uuid": uuid, "executor_class": CLASSES[0]}
            return [], {"event": kind, **what, "timestamp": 0}, []
        case "job_started":
            return [], {**receipt, "executor_class": CLASSES[0], "is_organic": True, "ttl": 60}, []
        case "job_accepted":
            return [], {**receipt, "time_accepted": 0, "ttl": 60}, []
        case "job_finished":
            how = {"time_started": 0, "time_took_us": 1, "score_str": "1", "block_numbers": []}
            return [], {**receipt, **how}, []
        case "pick":  # after a hold that expired, which it is to tidy up
            expire = {"ask": "expire", "back": 0, "us": 0}
            return (
                [{**reserve, "miner": "anna", "uuid": None}, expire],
                pick(go),
                [undo],
            )
        case "reserve":
            return [], {**reserve, "uuid": uuid}, [undo]
        case "spend" | "undo":  # what is spent is gone, so a new block comes each time
            return [block(BLOCKS + go), {**reserve, "seconds": 1, "uuid": None}], {"ask": kind, "back": 0}, []
        case "prune":  # of a hold that expired, and of what the last one was too early for
            number = BLOCKS + KEPT_BLOCKS * (go + 1)
            at_this_block = {**reserve, "start": 1000 + number + 1, "seconds": 1, "uuid": None}
            told = [act(event, go)[1] for event in ("job_started", "job_accepted", "job_finished", "incident")]
            books = [at_this_block, {"ask": "spend", "back": 0}, {**at_this_block, "miner": "anna"}]
            blocks = [block(number, MINERS[go % 2 :]), block(number + 1), block(number + 2)]
            return [CLOCK, *blocks, *books, *told, CLOCK], {"ask": kind, "batch": 100}, []
        case "forget":  # of a block with a drop, a sync and a hold of its own
            number = BLOCKS + go
            blocks = [block(number - 1), block(number, MINERS[go % 2 :]), manifests(number, 2), block(number + 1)]
            held = {**reserve, "start": 1000 + number + BLOCK_EXPIRY, "seconds": 1, "uuid": None}
            return [*blocks, held], {"ask": kind, "first": 1000 + number, "release": True}, []
        case _:
            return [], {"ask": "repair", "damage": DAMAGE[go % len(DAMAGE)], "nth": 0}, []


def block(number: int, hotkeys: tuple[str, ...] | None = None) -> Event:
    at = START + dt.timedelta(seconds=12 * number)
    names = None if hotkeys is None else sorted(hotkeys)
    return {
        "event": "block",
        "number": 1000 + number,
        "timestamp": at.isoformat(),
        "stake_share": 0.5,
        "hotkeys": names,
    }


def manifests(number: int, executors: int) -> Event:
    axons = {name: {"address": "10.0.0.1", "ip_version": 4, "port": 8000} for name in MINERS}
    counts = {name: dict.fromkeys(CLASSES, executors) for name in MINERS}
    return {"event": "manifests", "block": 1000 + number, "axons": axons, "executors": counts}
