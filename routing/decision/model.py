"""A decision as a value: the job, the policy, each candidate with its verdict, the route and the outcome."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple, Self, overload

from allowance.interface import LockTimeout, Standing, not_enough, to_seconds, wei_text
from allowance.plumbing.errors import RefusedError
from routing.dynamic import MINIMUM_WEI
from routing.types import AllMinersBusy, JobRoute, NoEligibleMiner, NotEnoughCollateralException, Outcome


@dataclass(frozen=True, slots=True)
class Job:
    """The part of a request that a decision uses."""

    uuid: str
    executor_class: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Policy:
    """The dynamic settings in force: required collateral in Wei (0: none), and length of the reliability window.

    `unused_blocks` is the number of the oldest blocks of allowance that are left unused.
    """

    minimum_wei: int
    window: dt.timedelta
    unused_blocks: int = 0


class Gate(StrEnum):
    """The gates that a candidate can fail. The last gate that any candidate failed decides the outcome of a refusal."""

    EXCLUDED = "excluded"
    ALLOWANCE = "allowance"
    COLLATERAL = "collateral"
    ADDRESS = "address"
    EXECUTORS = "executors"
    RESERVATION = "reservation"
    LOCK = "lock"


SUMMARY = {
    Gate.EXCLUDED: "excluded by the caller",
    Gate.ALLOWANCE: "with too little allowance",
    Gate.COLLATERAL: "with a collateral below {minimum_wei}",
    Gate.ADDRESS: "without an address",
    Gate.EXECUTORS: "busy",
    Gate.RESERVATION: "with too little allowance left when reserving",
    Gate.LOCK: "locked or just changed by other transactions",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result for a candidate: the gate that it failed (None: it is eligible), and the values at this gate.

    `required` is the value that the gate requires, `observed` is the candidate's value. For the candidate that gets the
    job, they are the job's seconds and the candidate's free seconds. For eligible candidates ranked lower, both are 0.
    """

    gate: Gate | None
    required: float
    observed: float

    @property
    def sentence(self) -> str:
        """The reason, in words."""
        match self.gate:
            case Gate.EXCLUDED:
                return "excluded by the caller"
            case Gate.ALLOWANCE:
                return f"{self.observed:g} s free, {self.required:g} s needed"
            case Gate.COLLATERAL:
                return f"{wei_text(int(self.observed))} posted, {wei_text(int(self.required))} needed"
            case Gate.ADDRESS:
                return "the miner announces no address that can be reached"
            case Gate.EXECUTORS:
                return f"{_count(self.required - 1, 'job')} ongoing on {_count(self.observed, 'executor')}"
            case Gate.RESERVATION:
                return f"only {self.observed:g} s free when reserving, {self.required:g} s needed"
            case Gate.LOCK:
                return "other transactions had locked or just changed its account"
        return "gets the job" if self.required else "ranked below the miner that gets the job"


def _count(number: float, thing: str) -> str:
    return f"{number:g} {thing}{'' if number == 1 else 's'}"


NOT_REACHED = Verdict(None, 0, 0)
PASSED_OVER = Verdict(Gate.LOCK, 0, 1)
NO_ADDRESS = Verdict(Gate.ADDRESS, 1, 0)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One miner as the decision saw it. `rank` counts from 1, and is None if the candidate was not ranked."""

    standing: Standing
    reachable: bool
    ongoing: int
    incidents: int
    score: float
    verdict: Verdict
    rank: int | None = None

    @property
    def hotkey(self) -> str:
        return self.standing.balance.hotkey

    @property
    def executors(self) -> int:
        return self.standing.balance.executors

    @property
    def wei(self) -> int:
        return self.standing.balance.wei

    @property
    def free_seconds(self) -> float:
        return to_seconds(self.standing.free)


class Candidates(Sequence[Candidate]):
    """The candidates of a decision, in the order of the allowance. They are made when the first of them is read.

    `counts` are the numbers of candidates that failed each gate. Gates that no candidate failed are left out.
    """

    def __init__(self, size: int, counts: Mapping[Gate, int], make: Callable[[], Iterable[Candidate]]) -> None:
        self.size, self.counts, self._make = size, counts, make

    @classmethod
    def of(cls, made: Sequence[Candidate] = ()) -> Self:
        """Return candidates that are made already."""
        counted = Counter(candidate.verdict.gate for candidate in made)
        return cls(len(made), {gate: counted[gate] for gate in Gate if counted[gate]}, lambda: made)

    @cached_property
    def _made(self) -> tuple[Candidate, ...]:
        return tuple(self._make())

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, place: int) -> Candidate: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Candidate]: ...

    def __getitem__(self, place: int | slice) -> Candidate | Sequence[Candidate]:
        return self._made[place]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Candidates) and self._made == other._made

    __hash__ = None  # type: ignore[assignment]


class Remedies(NamedTuple):
    """Advice for the caller after a refusal, in words: on the required collateral, and on the excluded miners."""

    collateral: str = f"lower {MINIMUM_WEI}"
    excluded: str = "exclude fewer miners"


OF_THE_SETTINGS = Remedies()
"""The remedies for callers of the router, who can change the setting and the miners that they exclude."""


class Timings(NamedTuple):
    """The duration of each stage of a decision, in seconds."""

    gather: float
    rank: float
    reserve: float


@dataclass(frozen=True)
class Decision:
    """The choice of a miner for a job, or the refusal of the job, with the reasons. Picks and dry runs return it.

    Routes to debug and trusted miners are fixed. They have no candidates, and `policy` and `timings` are None.
    `excluded` are the hotkeys that the caller excluded. If no miner takes the job, `causes` are sentences about the
    chain that explain why miners lack allowance.
    """

    job: Job
    at: dt.datetime
    block: int | None
    policy: Policy | None
    candidates: Candidates
    route: JobRoute | None
    excluded: frozenset[str] = frozenset()
    timings: Timings | None = field(default=None, compare=False)
    remedies: Remedies = field(default=OF_THE_SETTINGS, compare=False)
    causes: tuple[str, ...] = ()

    @property
    def counts(self) -> Mapping[Gate, int]:
        """The number of candidates that failed each gate. Gates that no candidate failed are left out."""
        return self.candidates.counts

    @cached_property
    def outcome(self) -> Outcome:
        """How the decision ended. A refusal depends on the furthest gate that a candidate failed.

        If an account stayed locked, its miner may be idle. The outcome is then LOCK_TIMEOUT, not ALL_MINERS_BUSY.
        """
        if self.route:
            return Outcome.ROUTED
        failed, order = self.counts, list(Gate)
        furthest = max(map(order.index, failed), default=0)
        if furthest <= order.index(Gate.ALLOWANCE):
            return Outcome.NOT_ENOUGH_ALLOWANCE
        if furthest <= order.index(Gate.COLLATERAL):
            return Outcome.NOT_ENOUGH_COLLATERAL
        return Outcome.LOCK_TIMEOUT if Gate.LOCK in failed else Outcome.ALL_MINERS_BUSY

    @cached_property
    def refusal(self) -> RefusedError:
        """The exception for a decision without a route. Raises ValueError if there is a route."""
        match self.outcome:
            case Outcome.NOT_ENOUGH_ALLOWANCE:
                asked = [c.standing for c in self.candidates if c.verdict.gate is Gate.ALLOWANCE]
                return not_enough(
                    self.job.seconds,
                    asked,
                    excluded=len(self.candidates) - len(asked),
                    instead=self.remedies.excluded,
                    causes=self.causes,
                )
            case Outcome.NOT_ENOUGH_COLLATERAL:
                return self._no_eligible_miner(NotEnoughCollateralException)
            case Outcome.ALL_MINERS_BUSY:
                return self._no_eligible_miner(AllMinersBusy)
            case Outcome.LOCK_TIMEOUT:
                return LockTimeout()
        raise ValueError("A decision with a route has no refusal.")

    def _no_eligible_miner(self, kind: type[NoEligibleMiner]) -> NoEligibleMiner:
        job, reasons = self.job, {c.hotkey: c.verdict.sentence for c in self.candidates}
        what = f"No miner for job {job.uuid} ({job.executor_class}, {job.seconds:g} s): {self.summary}."
        return kind(" ".join((what, *self.causes, self.advice)), reasons=reasons, causes=self.causes)

    @property
    def advice(self) -> str:
        """A sentence on what the caller can do after a refusal. It depends on the outcome and on the failed gates."""
        counts = self.counts
        if self.outcome is Outcome.NOT_ENOUGH_COLLATERAL:
            advice = f"{self.remedies.collateral}, or wait until miners post more"
        elif Gate.ADDRESS in counts and not counts.keys() & {Gate.EXECUTORS, Gate.RESERVATION}:
            advice = "retry when a miner without an address announces one"
        else:
            advice = "retry when a job finishes or a reservation expires"
        advice += f", or {self.remedies.excluded}" if Gate.EXCLUDED in counts else ""
        return f"{advice[:1].upper()}{advice[1:]}."

    @property
    def summary(self) -> str:
        """One line: how many candidates are eligible, and how many failed each gate."""
        return summarise(self.policy, len(self.candidates), self.counts)


def summarise(policy: Policy | None, candidates: int, counts: Mapping[Gate, int]) -> str:
    """Return in one line how many of the candidates are eligible, and how many failed each gate."""
    if policy is None:
        return "a fixed route without candidates"
    passed = candidates - sum(counts.values())
    failed = ", ".join(
        f"{n} {SUMMARY[gate].format(minimum_wei=wei_text(policy.minimum_wei))}"
        for gate, n in sorted(counts.items(), key=lambda item: -item[1])
    )
    unused = f" (the {policy.unused_blocks} oldest blocks stay unused)" if policy.unused_blocks else ""
    return f"{passed} of {candidates} miners eligible" + (f": {failed}" if failed else "") + unused
