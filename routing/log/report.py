"""Reports of a decision: as text for people, as JSON for programs."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from allowance.interface import JobTooLong, to_seconds, wei_text
from allowance.plumbing.console import WIDE, plain_table
from routing.decision.model import Candidate, Decision, Gate
from routing.types import JobRoute, OrganicJobRequest

STYLES = {None: "green", Gate.EXECUTORS: "yellow", Gate.RESERVATION: "yellow"}


def as_json(decision: Decision) -> dict[str, object]:
    """Return a decision as JSON values. Wei is a string, because JSON readers can't represent all numbers to 2**256."""
    policy = decision.policy
    return {
        "uuid": decision.job.uuid,
        "executor_class": decision.job.executor_class,
        "seconds": decision.job.seconds,
        "at": decision.at.isoformat(),
        "block": decision.block,
        "minimum_collateral_wei": policy and str(policy.minimum_wei),
        "window_hours": policy and policy.window.total_seconds() / 3600,
        "outcome": decision.outcome.value,
        "sentence": sentence(decision),
        "summary": decision.summary,
        "route": decision.route and _route(decision.route),
        "candidates": candidates_as_json(decision),
        "counts": {gate.value: n for gate, n in decision.counts.items()},
    }


def candidates_as_json(decision: Decision) -> list[dict[str, object]]:
    """Return the candidates as JSON values, in the order of `in_order`, each with its input and its verdict."""
    return [_candidate(c) for c in in_order(decision)]


def refused_as_json(request: OrganicJobRequest, error: Exception) -> dict[str, object]:
    """Return the refusal of a job that was refused before a decision, in the JSON form of a decision."""
    return {
        "uuid": request.uuid,
        "executor_class": request.executor_class,
        "outcome": "JOB_TOO_LONG" if isinstance(error, JobTooLong) else "BAD_MESSAGE",
        "sentence": str(error),
        "route": None,
        "candidates": [],
        "counts": {},
    }


def in_order(decision: Decision) -> list[Candidate]:
    """Return the candidates by rank, then the unranked ones, those that failed at a later gate first."""
    gates = list(Gate)
    return sorted(
        decision.candidates,
        key=lambda c: (c.rank is None, c.rank or 0, -gates.index(c.verdict.gate) if c.verdict.gate else 0),
    )


def sentence(decision: Decision) -> str:
    """Return the result of a decision in one line."""
    if not decision.route:
        return str(decision.refusal)
    miner = decision.route.miner
    blocks = decision.route.allowance_blocks
    paid = f", paid with {len(blocks)} blocks ({blocks[0]} to {blocks[-1]})" if blocks else ", no allowance needed"
    return f"Routed to {miner.hotkey_ss58} at {miner.endpoint}{paid}."


def show(decision: Decision, console: Console, *, most: int | None = None) -> None:
    """Print the job, the candidates with their verdicts (only the first `most`, if given), the result and a summary."""
    job = decision.job
    where = "" if decision.block is None else f", at block {decision.block}"
    console.print(f"Job {job.uuid}: {job.executor_class}, {job.seconds:g} s{where}", style="bold", soft_wrap=True)
    show_candidates(decision, console, most=most)
    console.print(Text(sentence(decision), style="green" if decision.route else "red"), soft_wrap=True)
    console.print(decision.summary, soft_wrap=True)


def show_candidates(decision: Decision, console: Console, *, most: int | None = None) -> None:
    """Print the candidates with their verdicts (only the first `most`, if given), if there are any."""
    if decision.candidates:
        candidates = in_order(decision)
        console.print(_table(candidates[:most], whole_hotkeys=console.width >= WIDE))
        if most is not None and len(candidates) > most:
            console.print(f"… and {len(candidates) - most} more", style="dim")


def _table(candidates: list[Candidate], *, whole_hotkeys: bool) -> Table:
    numbers = "rank", "score", "incidents", "executors", "ongoing", "free s", "collateral"
    table = plain_table("rank", "hotkey", *numbers[1:], "verdict", numbers=numbers, header_style="bold")
    table.columns[1].no_wrap = True
    for c in candidates:
        verdict = "eligible" if c.verdict.gate is None else c.verdict.gate.value
        table.add_row(
            str(c.rank or "–"),
            Text(c.hotkey if whole_hotkeys or len(c.hotkey) < 16 else f"{c.hotkey[:9]}…{c.hotkey[-5:]}"),
            f"{c.score:.3f}",
            str(c.incidents),
            str(c.executors),
            str(c.ongoing),
            f"{c.free_seconds:.1f}",
            wei_text(c.wei),
            Text(f"{verdict}: {c.verdict.sentence}", style=STYLES.get(c.verdict.gate, "red")),
        )
    return table


def _route(route: JobRoute) -> dict[str, object]:
    return {
        "hotkey": route.miner.hotkey_ss58,
        "address": route.miner.address,
        "ip_version": route.miner.ip_version,
        "port": route.miner.port,
        "allowance_blocks": route.allowance_blocks,
    }


def _candidate(c: Candidate) -> dict[str, object]:
    return {
        "rank": c.rank,
        "hotkey": c.hotkey,
        "score": c.score,
        "incidents": c.incidents,
        "executors": c.executors,
        "ongoing": c.ongoing,
        "free_seconds": c.free_seconds,
        "unspent_seconds": to_seconds(c.standing.unspent),
        "collateral_wei": str(c.wei),
        "verdict": {
            "gate": c.verdict.gate,
            "required": _number(c.verdict.required),
            "observed": _number(c.verdict.observed),
            "sentence": c.verdict.sentence,
        },
    }


def _number(value: float) -> float | str:
    return str(value) if isinstance(value, int) and value >= 2**53 else value
