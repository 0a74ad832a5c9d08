"""The candidates of a job: judged by the gates, ranked, and tried in turn.

All miners are judged and ranked at once, as columns. A candidate is made only if something needs it: a refusal, a
record or a page. A route needs only the candidate that gets the job.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from allowance.interface import Miner, ledger
from routing.decision.board import Board
from routing.decision.model import NO_ADDRESS, NOT_REACHED, Candidate, Candidates, Decision, Gate, Verdict
from routing.decision.reliability import scores
from routing.types import JobRoute

GATES = [*Gate]
PASSED = len(GATES)


def rank(question: Decision, board: Board, incidents: Mapping[str, int]) -> Ranking:
    """Judge the miners of a board by the gates, and rank those that pass.

    `incidents` has the number of incidents of each miner, by hotkey. A miner that it lacks has none.
    """
    policy, columns = question.policy, board.columns
    counts = np.zeros(len(columns), dtype=np.int64)
    for hotkey in incidents.keys() & board.slots.keys():
        counts[board.slots[hotkey]] = incidents[hotkey]
    rated = scores(counts, columns["executors"])
    gates = np.full(len(columns), PASSED, dtype=np.int8)
    gates[columns["ongoing"] >= columns["executors"]] = GATES.index(Gate.EXECUTORS)
    gates[~columns["reachable"]] = GATES.index(Gate.ADDRESS)
    gates[board.wei < (policy.minimum_wei if policy else 0)] = GATES.index(Gate.COLLATERAL)
    gates[-columns["free"] < ledger.to_ns(question.job.seconds)] = GATES.index(Gate.ALLOWANCE)
    gates[[board.slots[hotkey] for hotkey in question.excluded & board.slots.keys()]] = GATES.index(Gate.EXCLUDED)
    best_first = np.lexsort((columns["free"], columns["share"], columns["first"], -rated))
    ranked = best_first[gates[best_first] >= GATES.index(Gate.EXECUTORS)]
    return Ranking(question, board, counts, rated, gates, ranked)


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """The candidates for the job of a question. Their slots are those of the `board`.

    `gates` has the place in GATES of the gate that each candidate failed, or PASSED. `ranked` are the slots of the
    candidates that passed the gates before Gate.EXECUTORS, the best first. `tried` has the verdicts of `pipeline.walk`,
    by slot.
    """

    question: Decision
    board: Board
    incidents: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    gates: npt.NDArray[np.int8]
    ranked: npt.NDArray[np.intp]
    tried: Mapping[int, Verdict] = field(default_factory=dict)

    def equals(self) -> list[int]:
        """Return the slots of the best candidates that may still take the job. All are equally reliable."""
        idle = self.ranked[self.gates[self.ranked] == PASSED]
        if self.tried:
            idle = idle[~np.isin(idle, [*self.tried])]
        best: list[int] = idle[self.scores[idle] == self.scores[idle[:1]]].tolist()
        return best

    def after(self, verdicts: Mapping[int, Verdict]) -> Ranking:
        """Return the ranking with more verdicts of the walk, by slot."""
        return replace(self, tried={**self.tried, **verdicts})

    def hotkey(self, slot: int) -> str:
        """Return the hotkey of a candidate."""
        return self.board.lines[slot].hotkey

    def routed(self, slot: int, miner: Miner, blocks: list[int], reservation_id: int | None) -> Decision:
        """Return the decision that sends the job to a candidate, at the address of `miner`."""
        free = ledger.to_seconds(self.board.lines[slot].standing.free)
        chosen = Verdict(None, self.question.job.seconds, free)
        return self.after({slot: chosen}).decision(JobRoute(miner, blocks, reservation_id))

    def decision(self, route: JobRoute | None = None) -> Decision:
        """Return the decision on the job."""
        gates = self.gates.copy()
        for slot, verdict in self.tried.items():
            gates[slot] = GATES.index(verdict.gate) if verdict.gate else PASSED
        numbers = np.bincount(gates, minlength=PASSED + 1).tolist()
        counts = {gate: number for gate, number in zip(GATES, numbers, strict=False) if number}
        return replace(self.question, candidates=Candidates(len(gates), counts, self._candidates), route=route)

    def _candidates(self) -> Iterator[Candidate]:
        """Yield the candidates in the order of the allowance."""
        columns, places = self.board.columns, {slot: place for place, slot in enumerate(self.ranked.tolist(), start=1)}
        for slot in np.lexsort((columns["free"], columns["share"], columns["first"])).tolist():
            yield self._candidate(slot, places.get(slot))

    def candidate(self, slot: int) -> Candidate:
        """Return a ranked candidate."""
        return self._candidate(slot, 1 + self.ranked.tolist().index(slot))

    def _candidate(self, slot: int, rank: int | None) -> Candidate:
        incidents, score = int(self.incidents[slot]), float(self.scores[slot])
        return Candidate(*self.board.lines[slot], incidents, score, self._verdict(slot), rank)

    def _verdict(self, slot: int) -> Verdict:
        if slot in self.tried:
            return self.tried[slot]
        if self.gates[slot] == PASSED:
            return NOT_REACHED
        line, job, policy = self.board.lines[slot], self.question.job, self.question.policy
        balance = line.standing.balance
        match GATES[self.gates[slot]]:
            case Gate.ALLOWANCE:
                return Verdict(Gate.ALLOWANCE, job.seconds, ledger.to_seconds(line.standing.free))
            case Gate.COLLATERAL:
                return Verdict(Gate.COLLATERAL, policy.minimum_wei if policy else 0, balance.wei)
            case Gate.ADDRESS:
                return NO_ADDRESS
            case Gate.EXECUTORS:
                return busy(line.ongoing, balance.executors)
        return Verdict(Gate.EXCLUDED, 0, 1)


def busy(ongoing: int, executors: int) -> Verdict:
    """Return the verdict on a miner whose ongoing jobs occupy all its executors."""
    return Verdict(Gate.EXECUTORS, ongoing + 1, executors)
