"""The dry run of a class for pages: the rank of each miner, and its rank without some of its incidents."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import NamedTuple

from routing.decision.book import DryBook
from routing.decision.model import NOT_REACHED, OF_THE_SETTINGS, Candidate, Decision, Policy, Remedies
from routing.decision.pipeline import decide
from routing.decision.reading import Seen
from routing.decision.reliability import score
from routing.requests import plain_request
from routing.types import MinerIncidentType


class SeenBook(DryBook):
    """The book of a dry run with input that was read before, so that a page shows what the decision saw."""

    def read(self, executor_class: str, now: dt.datetime | None) -> Seen:
        return self.seen or super().read(executor_class, now)


def dry_run(
    executor_class: str,
    seconds: int,
    *,
    now: dt.datetime | None = None,
    policy: Policy,
    exclude: Collection[str] = (),
    remedies: Remedies = OF_THE_SETTINGS,
    seen: Seen | None = None,
) -> Decision:
    """Decide where a job of `seconds` would go, without writing anything.

    The input is what was `seen`. It defaults to what the database has, at `now` or at the time of the reading.

    Raises what `decide` raises.
    """
    request = plain_request(executor_class, seconds)
    return decide(request, SeenBook(seen), now=now, policy=policy, exclude=exclude, remedies=remedies)


class Cost(NamedTuple):
    """The rank and score of a miner without its incidents of one type, or without any if `without` is None."""

    without: MinerIncidentType | None
    incidents: int
    score: float
    rank: int | None

    @property
    def label(self) -> str:
        return str(self.without.label) if self.without else ""


def costs(decision: Decision, own: Candidate, by_type: Mapping[str, int]) -> list[Cost]:
    """Return what the incidents of each type, and all together, cost a candidate. `by_type` has their numbers."""
    # A separate query counted these, so they can exceed `own.incidents` if an incident was recorded in between.
    left = [(MinerIncidentType(kind), max(0, own.incidents - n)) for kind, n in by_type.items()]
    found = [(kind, as_if(decision, own, incidents)) for kind, incidents in (*left, (None, 0))]
    return [Cost(kind, c.incidents, c.score, c.rank) for kind, c in found]


def as_if(decision: Decision, own: Candidate, incidents: int) -> Candidate:
    """Return a candidate as it would be ranked with this number of incidents, with all others unchanged.

    A candidate rejected by a gate stays unranked regardless of its score.
    """
    rated = score(incidents, own.executors)
    changed = replace(own, incidents=incidents, score=rated, verdict=NOT_REACHED)
    if own.rank is None:
        return changed
    others = [c for c in decision.candidates if c.rank is not None and c is not own]
    better = sum((-c.score, c.standing.order) < (-rated, own.standing.order) for c in others)
    return replace(changed, rank=1 + better)
