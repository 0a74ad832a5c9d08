"""Replay of recorded decisions: run the decision function on the recorded input, and report what differs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from routing.decision.board import Board, Line
from routing.decision.model import PASSED_OVER, Candidates, Decision, Gate, Verdict
from routing.decision.pipeline import settle
from routing.decision.ranking import Ranking
from routing.log.records import load
from routing.models import DecisionRecord

UNDER_THE_LOCK = {Gate.ADDRESS, Gate.EXECUTORS, Gate.RESERVATION}


@dataclass(frozen=True, slots=True)
class RecordedBook:
    """The book of a replay.

    `answers` are the verdicts that the pick reached under the locks of the accounts, by hotkey. `passed_over` are the
    hotkeys whose accounts it could not lock; they are passed over again.
    """

    answers: Mapping[str, Verdict]
    passed_over: frozenset[str]

    def reserve(self, ranking: Ranking, equals: Sequence[int]) -> Decision | Ranking:
        for slot in equals:
            if answer := self.answers.get(ranking.hotkey(slot)):
                return ranking.after({slot: answer})
        passed_over = list(takewhile(lambda slot: ranking.hotkey(slot) in self.passed_over, equals))
        ranking = ranking.after(dict.fromkeys(passed_over, PASSED_OVER))
        if len(passed_over) == len(equals):
            return ranking
        winner = equals[len(passed_over)]
        return ranking.routed(winner, ranking.board.lines[winner].standing.balance.miner, [], None)


def differences(record: DecisionRecord) -> list[str] | None:
    """Return how the replay of a recorded decision differs from the record, in sentences. Empty if all agrees.

    None if the candidates were not kept, because the decision can't be replayed then.
    """
    recorded = load(record)
    if recorded is None:
        return None
    board = Board.of(Line(c.standing, c.reachable, c.ongoing) for c in recorded.candidates)
    incidents = {c.hotkey: c.incidents for c in recorded.candidates}
    question = replace(recorded, candidates=Candidates.of(), route=None)
    made = settle(question, board, incidents, _book(recorded), begun=time.perf_counter())
    return [*_compare(record, recorded, made)]


def _book(recorded: Decision) -> RecordedBook:
    """Return the book of a replay, from the verdicts on the candidates that had an idle executor when read."""
    idle = [c for c in recorded.candidates if c.ongoing < c.executors]
    answers = {c.hotkey: c.verdict for c in idle if c.verdict.gate in UNDER_THE_LOCK}
    return RecordedBook(answers, frozenset(c.hotkey for c in idle if c.verdict.gate is Gate.LOCK))


def _compare(record: DecisionRecord, recorded: Decision, made: Decision) -> Iterator[str]:
    if (is_now := made.outcome) != record.outcome:
        yield f"outcome: was {record.outcome}, is {is_now}"
    winner = made.route.miner.hotkey_ss58 if made.route else ""
    if winner != record.miner:
        yield f"winner: was {record.miner or 'none'}, is {winner or 'none'}"
    chosen = next((c for c in made.candidates if c.hotkey == winner), None)
    was_chosen, is_chosen = (record.rank, record.score), (chosen and chosen.rank, chosen and chosen.score)
    if was_chosen != is_chosen:
        yield f"rank and score of the winner: were {was_chosen}, are {is_chosen}"
    counted = {gate.value: n for gate, n in made.counts.items()}
    if (record.asked, record.counts) != (len(made.candidates), counted):
        yield f"candidates: were {record.asked}, failed {record.counts}; are {len(made.candidates)}, failed {counted}"
    before, after = ([c.hotkey for c in decision.candidates] for decision in (recorded, made))
    if before != after:
        place = next(i for i, (was, now) in enumerate(zip(before, after, strict=True)) if was != now)
        yield f"order by allowance: candidate {place + 1} was {before[place]}, is {after[place]}"
    scores = dict(zip(before, _scores(record), strict=True))
    again = {candidate.hotkey: candidate for candidate in made.candidates}
    for was in recorded.candidates:
        now = again[was.hotkey]
        if (scores[was.hotkey], was.rank, was.verdict) != (now.score, now.rank, now.verdict):
            yield (
                f"{was.hotkey}: was rank {was.rank}, score {scores[was.hotkey]:g}, {was.verdict.sentence}; "
                f"is rank {now.rank}, score {now.score:g}, {now.verdict.sentence}"
            )


def _scores(record: DecisionRecord) -> list[float]:
    kept = record.candidates or {"columns": [], "rows": []}
    return [row[kept["columns"].index("score")] for row in kept["rows"]]
