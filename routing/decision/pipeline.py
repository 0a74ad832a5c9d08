"""The decision function: gather, filter, rank, reserve.

The live pick and the dry run call the same function with different books. A dry run can also replace the policy.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Collection, Mapping
from dataclasses import replace

from allowance.interface import EXECUTOR_CLASSES, MANY, causes, clock, validation
from routing.decision.board import Board
from routing.decision.book import Book, Outdated, Reserver
from routing.decision.fixed import fixed_route
from routing.decision.model import OF_THE_SETTINGS, Candidates, Decision, Gate, Job, Policy, Remedies, Timings
from routing.decision.ranking import Ranking, rank
from routing.decision.reliability import incident_counts
from routing.dynamic import UNUSED_BLOCKS
from routing.types import OrganicJobRequest


def decide(
    request: OrganicJobRequest,
    book: Book,
    *,
    now: dt.datetime | None = None,
    policy: Policy | None = None,
    exclude: Collection[str] = (),
    remedies: Remedies = OF_THE_SETTINGS,
) -> Decision:
    """Decide where a job goes, and reserve there in `book`. If no miner takes the job, the decision has no route.

    `now` defaults to the time of the reading, and `policy` to the dynamic settings in force. `remedies` are what a
    refusal advises the caller to change. Raises ValueError for bad input and JobTooLong above an hour. Raises
    ImproperlyConfigured if the settings of a fixed route or the dynamic settings can't be used. Raises LockTimeout if
    SQLite's only lock, or a row that a claim of the book locks, does not become free in time. Raises what the claim
    raises.
    """
    if fixed := fixed_route(request):
        job = Job(request.uuid, request.executor_class, _total_seconds(request))
        return Decision(job, now or clock.now(), None, None, Candidates.of(), fixed)
    job = check_request(request)
    now = None if now is None else validation.timestamp(now)
    banned = validation.hotkeys(exclude, "exclude")
    decision = None
    while decision is None:
        decision = _decide(job, book, now=now, policy=policy, excluded=banned, remedies=remedies)
    if decision.route is None and job.executor_class in EXECUTOR_CLASSES:
        candidates = decision.candidates
        counts, balances = decision.counts, [candidate.standing.balance for candidate in candidates]
        asked = len(candidates) - counts.get(Gate.EXCLUDED, 0)
        lacking = [c.standing.balance for c in candidates if c.verdict.gate in {Gate.EXCLUDED, Gate.ALLOWANCE}]
        named = causes(job.executor_class, balances, lacking, of_blocks=2 * counts.get(Gate.ALLOWANCE, 0) >= asked)
        unused = decision.policy.unused_blocks if decision.policy else 0
        if unused > MANY and Gate.ALLOWANCE in counts:
            named += (f"The {unused} oldest blocks stay unused: see {UNUSED_BLOCKS}.",)
        return replace(decision, causes=named)
    return decision


def _decide(
    job: Job,
    book: Book,
    *,
    now: dt.datetime | None,
    policy: Policy | None,
    excluded: frozenset[str],
    remedies: Remedies,
) -> Decision | None:
    """Return the decision from a new reading, or None if it is outdated already."""
    begun = time.perf_counter()
    seen = book.read(job.executor_class, now)
    policy, at, newest = policy or seen.in_force.policy, seen.at, seen.window.newest
    seen = seen.leaving(policy.unused_blocks)
    incidents = {}
    if seen.state.rows:
        incidents = incident_counts(job.executor_class, at, policy.window, version=seen.in_force.incidents)
    question = Decision(job, at, newest, policy, Candidates.of(), None, excluded=excluded, remedies=remedies)
    try:
        return settle(question, seen.state.board, incidents, book, begun=begun)
    except Outdated:
        return None


def settle(question: Decision, board: Board, incidents: Mapping[str, int], book: Reserver, *, begun: float) -> Decision:
    """Return the decision on a job whose input is gathered: judge, rank, reserve.

    `begun` is the time at which gathering began, by `time.perf_counter`.
    """
    gathered = time.perf_counter()
    ranking = rank(question, board, incidents)
    ranked = time.perf_counter()
    decision = walk(ranking, book)
    return replace(decision, timings=Timings(gathered - begun, ranked - gathered, time.perf_counter() - ranked))


def walk(ranking: Ranking, book: Reserver) -> Decision:
    """Reserve with the best candidate that can take the job.

    Candidates whose accounts stay locked are passed over for equally reliable ones. Less reliable ones come next only
    if all of these stay locked.
    """
    while equals := ranking.equals():
        answer = book.reserve(ranking, equals)
        if isinstance(answer, Decision):
            return answer
        ranking = answer
    return ranking.decision()


def check_request(request: OrganicJobRequest) -> Job:
    """Return the job of a request. Raises ValueError for a bad uuid or limit, JobTooLong above an hour."""
    parts = request.download_time_limit, request.execution_time_limit, request.upload_time_limit
    seconds = validation.seconds(sum(map(validation.time_limit, parts)))
    return Job(str(validation.job_uuid(request.uuid)), str(request.executor_class), seconds)


def _total_seconds(request: OrganicJobRequest) -> float:
    return request.download_time_limit + request.execution_time_limit + request.upload_time_limit
