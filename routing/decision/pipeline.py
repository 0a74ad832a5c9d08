"""The decision function: gather, filter, rank, reserve.

The refusal of a candidate is a value, its verdict. The live pick and the dry run call the same function with different
books. A dry run can also replace the policy.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter

from allowance.interface import (
    EXECUTOR_CLASSES,
    Window,
    causes,
    ledger,
    validation,
)
from routing.decision.book import Book, Outdated, Reserved, Reserver, busy
from routing.decision.fixed import fixed_route
from routing.decision.model import (
    NO_ADDRESS,
    NOT_REACHED,
    OF_THE_SETTINGS,
    PASSED_OVER,
    Candidate,
    Decision,
    Gate,
    Job,
    Policy,
    Remedies,
    Timings,
    Verdict,
)
from routing.decision.reading import Seen
from routing.decision.reliability import incident_counts, score
from routing.types import JobRoute, OrganicJobRequest


def decide(
    request: OrganicJobRequest,
    book: Book,
    *,
    now: dt.datetime,
    policy: Policy | None = None,
    exclude: Collection[str] = (),
    remedies: Remedies = OF_THE_SETTINGS,
) -> Decision:
    """Decide where a job goes, and reserve there in `book`. If no miner takes the job, the decision has no route.

    `policy` defaults to the dynamic settings in force. `remedies` are what a refusal advises the caller to change.
    Raises ValueError for bad input and JobTooLong above an hour. Raises ImproperlyConfigured if the settings of a fixed
    route or the dynamic settings can't be used. Raises LockTimeout if SQLite's only lock, or a row that a claim of the
    book locks, does not become free in time. Raises what the claim raises.
    """
    if fixed := fixed_route(request):
        job = Job(request.uuid, request.executor_class, _total_seconds(request))
        return Decision(job, now, None, None, (), fixed)
    job = check_request(request)
    now = validation.timestamp(now)
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
        return replace(decision, causes=named)
    return decision


def _decide(
    job: Job,
    book: Book,
    *,
    now: dt.datetime,
    policy: Policy | None,
    excluded: frozenset[str],
    remedies: Remedies,
) -> Decision | None:
    """Return the decision from a new reading, or None if it is outdated already."""
    begun = time.perf_counter()
    seen = book.read(job.executor_class, now)
    policy = policy or seen.in_force.policy
    incidents = {}
    if seen.balances:
        incidents = incident_counts(job.executor_class, now, policy.window, version=seen.in_force.incidents)
    candidates = tuple(gather(seen, incidents))
    question = Decision(job, now, seen.window.newest, policy, candidates, None, excluded=excluded, remedies=remedies)
    try:
        return settle(question, book, seen.window, begun=begun)
    except Outdated:
        return None


def settle(question: Decision, book: Reserver, window: Window, *, begun: float) -> Decision:
    """Return the decision on a job whose candidates are gathered: filter, rank, reserve.

    `begun` is the time at which gathering began, by `time.perf_counter`. The candidates get their verdicts and ranks in
    place.
    """
    gathered, policy = time.perf_counter(), question.policy
    if policy is None:  # a fixed route needs no decision
        return question
    need = ledger.to_ns(question.job.seconds)
    for candidate in question.candidates:
        candidate.verdict = judge(candidate, question.job, need, policy, question.excluded)
    ranked = rank(question.candidates)
    decided = time.perf_counter()
    route = walk(ranked, question, book, window)
    timings = Timings(gathered - begun, decided - gathered, time.perf_counter() - decided)
    return replace(question, route=route, timings=timings)


def check_request(request: OrganicJobRequest) -> Job:
    """Return the job of a request. Raises ValueError for a bad uuid or limit, JobTooLong above an hour."""
    parts = request.download_time_limit, request.execution_time_limit, request.upload_time_limit
    seconds = validation.seconds(sum(map(validation.time_limit, parts)))
    return Job(str(validation.job_uuid(request.uuid)), str(request.executor_class), seconds)


def gather(seen: Seen, incidents: Mapping[str, int]) -> list[Candidate]:
    """Return the candidates of a decision, in the order of the allowance."""
    candidates = []
    for standing in ledger.standings(seen.window, list(seen.balances.values())):
        balance = standing.balance
        count = incidents.get(balance.hotkey, 0)
        jobs = len(seen.ongoing.get(balance.hotkey, ()))
        rated = score(count, balance.executors)
        candidates.append(Candidate(standing, balance.is_reachable, jobs, count, rated, NOT_REACHED))
    return candidates


def judge(candidate: Candidate, job: Job, need: int, policy: Policy, banned: frozenset[str]) -> Verdict:
    """Return the verdict of the gates before the ranking. `need` is the job's duration in nanoseconds."""
    balance = candidate.standing.balance
    if balance.hotkey in banned:
        return Verdict(Gate.EXCLUDED, 0, 1)
    if candidate.standing.free < need:
        return Verdict(Gate.ALLOWANCE, job.seconds, candidate.free_seconds)
    if balance.wei < policy.minimum_wei:
        return Verdict(Gate.COLLATERAL, policy.minimum_wei, candidate.wei)
    if not candidate.reachable:
        return NO_ADDRESS
    return NOT_REACHED


def rank(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Rank the candidates that passed the gates and return them, the most reliable first. Equals keep their order."""
    ranked = sorted((c for c in candidates if c.verdict.gate is None), key=attrgetter("score"), reverse=True)
    for place, candidate in enumerate(ranked, start=1):
        candidate.rank = place
    return ranked


def walk(ranked: Sequence[Candidate], question: Decision, book: Reserver, window: Window) -> JobRoute | None:
    """Reserve with the first candidate that can take the job, and set the verdict of each candidate that can't.

    Candidates whose accounts stay locked are passed over for equally reliable ones. Less reliable ones come next only
    if all of these stay locked.
    """
    idle = []
    for candidate in ranked:
        if verdict := busy(candidate.standing.balance, candidate.ongoing):
            candidate.verdict = verdict
        else:
            idle.append(candidate)
    while idle:
        equals = [candidate for candidate in idle if candidate.score == idle[0].score]
        asked = book.reserve(equals, question, window)
        if asked is None:
            for candidate in equals:
                candidate.verdict = PASSED_OVER
            idle = idle[len(equals) :]
            continue
        candidate, answer = asked
        if isinstance(answer, Reserved):
            candidate.verdict = candidate.chosen(question.job)
            return JobRoute(answer.miner, answer.blocks, answer.reservation_id)
        candidate.verdict = answer
        idle = [other for other in idle if other is not candidate and other.verdict is not PASSED_OVER]
    return None


def _total_seconds(request: OrganicJobRequest) -> float:
    return request.download_time_limit + request.execution_time_limit + request.upload_time_limit
