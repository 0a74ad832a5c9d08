"""The words of routing: requests, routes, decisions and refusals."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol
from uuid import UUID

from allowance.interface import HOTKEY_LENGTH, BadInputError, ExecutorClass, Miner, Standing, to_seconds, wei_text
from allowance.plumbing.errors import RefusedError
from routing.dynamic import MINIMUM_WEI

__all__ = [
    "TRUSTED_MINER_FAKE_KEY",
    "AllMinersBusy",
    "BadInputError",
    "Candidate",
    "Decision",
    "ExecutorClass",
    "Gate",
    "Job",
    "JobRoute",
    "JobRoutingException",
    "Miner",
    "MinerIncidentType",
    "NoMinerFits",
    "NotEnoughCollateralException",
    "OrganicJobRequest",
    "Policy",
    "RefusedError",
    "Remedies",
    "Timings",
    "Verdict",
]

ROUTED = "routed"
"""The outcome of a decision that is no refusal."""

TRUSTED_MINER_FAKE_KEY = "0" * HOTKEY_LENGTH
"""The hotkey of the pseudo-miner that gets every job with `on_trusted_miner`."""


class MinerIncidentType(StrEnum):
    """What a miner can do wrong."""

    # No TextChoices: mypy takes its members for tuples on a site that has no django-stubs.
    MINER_JOB_REJECTED = "MINER_JOB_REJECTED"
    MINER_JOB_FAILED = "MINER_JOB_FAILED"
    MINER_HORDE_FAILED = "MINER_HORDE_FAILED"

    @property
    def label(self) -> str:
        """What the miner did, in words."""
        return _LABELS[self.value]


_LABELS = {
    "MINER_JOB_REJECTED": "rejected the job",
    "MINER_JOB_FAILED": "failed the job",
    "MINER_HORDE_FAILED": "its horde failed",
}


class OrganicJobRequest(Protocol):
    """What the router needs to know of a job; limits in seconds."""

    @property
    def uuid(self) -> str: ...
    @property
    def executor_class(self) -> str: ...
    @property
    def download_time_limit(self) -> int: ...
    @property
    def execution_time_limit(self) -> int: ...
    @property
    def upload_time_limit(self) -> int: ...
    @property
    def on_trusted_miner(self) -> bool: ...


@dataclass(frozen=True)
class JobRoute:
    """Where a job goes, and what pays for it.

    `allowance_blocks` is None for the trusted miner and empty for the debug miner; neither has a reservation.
    """

    miner: Miner
    allowance_blocks: list[int] | None
    allowance_reservation_id: int | None


@dataclass(frozen=True, slots=True)
class Job:
    """What a request comes down to."""

    uuid: str
    executor_class: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Policy:
    """The dynamic settings in force: least collateral in Wei (0: any), length of the reliability window."""

    minimum_wei: int
    window: dt.timedelta


class Gate(StrEnum):
    """What a candidate may fail at, in the order in which it is asked."""

    EXCLUDED = "excluded"
    ALLOWANCE = "allowance"
    COLLATERAL = "collateral"
    ADDRESS = "address"
    EXECUTORS = "executors"
    RESERVATION = "reservation"
    LOCK = "lock"


SUMMARY = {
    Gate.EXCLUDED: "excluded by the caller",
    Gate.ALLOWANCE: "without allowance",
    Gate.COLLATERAL: "below the collateral of {minimum_wei}",
    Gate.ADDRESS: "without an address",
    Gate.EXECUTORS: "busy",
    Gate.RESERVATION: "taken by another job meanwhile",
    Gate.LOCK: "locked or just changed by others",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a candidate: the gate it failed at (None: at none), what was required and seen there.

    Who gets the job has passed the last gate, at which its seconds were required; nothing was of those ranked below it.
    """

    gate: Gate | None
    required: float
    observed: float

    @property
    def sentence(self) -> str:
        """Why, in words."""
        match self.gate:
            case Gate.EXCLUDED:
                return "excluded by the caller"
            case Gate.ALLOWANCE:
                return f"{self.observed:g} s free, {self.required:g} s needed"
            case Gate.COLLATERAL:
                return f"{wei_text(int(self.observed))} posted, {wei_text(int(self.required))} needed"
            case Gate.ADDRESS:
                return "it announces no address that can be reached"
            case Gate.EXECUTORS:
                return f"{_count(self.required - 1, 'job')} ongoing on {_count(self.observed, 'executor')}"
            case Gate.RESERVATION:
                return f"only {self.observed:g} s left when its turn came"
            case Gate.LOCK:
                return "others had its account locked, or had just changed it"
        return "gets the job" if self.required else "ranked below the one that gets it"


def _count(number: float, thing: str) -> str:
    return f"{number:g} {thing}{'' if number == 1 else 's'}"


NOT_REACHED = Verdict(None, 0, 0)
PASSED_OVER = Verdict(Gate.LOCK, 0, 1)
NO_ADDRESS = Verdict(Gate.ADDRESS, 1, 0)


@dataclass(slots=True)
class Candidate:
    """One miner as the decision saw it. `rank` counts from 1, and is None for who was not ranked."""

    standing: Standing
    reachable: bool
    ongoing: int
    incidents: int
    score: float
    verdict: Verdict
    rank: int | None = None

    @property
    def miner(self) -> Miner:
        return self.standing.balance.miner

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

    def chosen(self, job: Job) -> Verdict:
        """Return the verdict on who gets the job."""
        return Verdict(None, job.seconds, self.free_seconds)


class Remedies(NamedTuple):
    """What the one who asks can change after a refusal: the collateral needed, and which miners are excluded."""

    collateral: str = f"lower {MINIMUM_WEI}"
    excluded: str = "exclude fewer miners"


OF_THE_SETTINGS = Remedies()
"""What callers of the router can change: the setting in force, and the miners that they exclude."""


class Timings(NamedTuple):
    """How many seconds the stages of a decision took."""

    gather: float
    rank: float
    reserve: float


@dataclass(frozen=True, slots=True)
class Decision:
    """Why a job goes where it goes, or nowhere: the one value that the pick, the dry run and the refusals read.

    Debug and trusted miners are fixed routes: nothing was asked, so `policy` is None and there are no candidates, nor
    `timings`. The hotkeys `excluded` are those that the caller did not want. `causes` say what of the chain keeps
    allowance from miners, if nobody takes the job.
    """

    job: Job
    at: dt.datetime
    block: int | None
    policy: Policy | None
    candidates: tuple[Candidate, ...]
    route: JobRoute | None
    excluded: frozenset[str] = frozenset()
    timings: Timings | None = field(default=None, compare=False)
    remedies: Remedies = field(default=OF_THE_SETTINGS, compare=False)
    causes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[Gate, int]:
        """How many candidates failed at each gate; gates at which none did are left out."""
        counted = Counter(c.verdict.gate for c in self.candidates)
        return {gate: counted[gate] for gate in Gate if counted[gate]}

    @property
    def summary(self) -> str:
        """One line: how many miners could take the job, and what the others failed at."""
        return summarise(self.policy, len(self.candidates), self.counts)


def summarise(policy: Policy | None, candidates: int, counts: Mapping[Gate, int]) -> str:
    """Return in one line how many of so many candidates fit, and how many failed at which gate."""
    if policy is None:
        return "a fixed route, no miner was asked"
    passed = candidates - sum(counts.values())
    failed = ", ".join(
        f"{n} {SUMMARY[gate].format(minimum_wei=wei_text(policy.minimum_wei))}"
        for gate, n in sorted(counts.items(), key=lambda item: -item[1])
    )
    return f"{passed} of {candidates} miners{' fit' if passed else ''}" + (f": {failed}" if failed else "")


class JobRoutingException(RefusedError):
    """A job can't be routed: the base class of all such refusals, besides the ledger's. Nothing is held."""


class NoMinerFits(JobRoutingException):
    """No miner can take the job; `decision` has the reason for each candidate."""

    def __init__(self, decision: Decision) -> None:
        self.decision = decision
        advice = self.advice + (", or {excluded}" if Gate.EXCLUDED in decision.counts else "")
        advice = advice.format_map(decision.remedies._asdict())
        what = f"No miner for job {decision.job.uuid} ({decision.job.executor_class}, {decision.job.seconds:g} s)"
        advised = f"{advice[:1].upper()}{advice[1:]}."
        super().__init__(" ".join((f"{what}: {decision.summary}.", *decision.causes, advised)))

    @property
    def advice(self) -> str:
        """What the caller can do; may name the decision's `remedies`."""
        raise NotImplementedError

    @property
    def candidates(self) -> Sequence[Candidate]:
        return self.decision.candidates

    @property
    def reasons(self) -> dict[str, str]:
        """Why not, by hotkey."""
        return {c.hotkey: c.verdict.sentence for c in self.candidates}


class AllMinersBusy(NoMinerFits):
    """Every miner that has allowance and collateral has as many jobs as executors, or can't be reached."""

    @property
    def advice(self) -> str:
        """What to do: to wait helps if a miner is busy."""
        failed = self.decision.counts.keys()
        if Gate.ADDRESS in failed and not failed & {Gate.EXECUTORS, Gate.RESERVATION}:
            return "retry when one of those without an address announces where it listens"
        return "retry when a job has finished or a reservation lapses"


class NotEnoughCollateralException(NoMinerFits):
    """Every miner that has the allowance posted less collateral than required."""

    @property
    def advice(self) -> str:
        """What to do."""
        return "{collateral}, or wait until miners post more"


class JobFinished(JobRoutingException):
    """A job is over or paid for, so it is not routed again."""

    def __init__(self, job_uuid: UUID) -> None:
        self.job_uuid = job_uuid
        super().__init__(f"Job {job_uuid} is over or paid for. A new job needs a uuid of its own.")


class JobTaken(JobRoutingException):
    """The uuid of a new job is that of another client's job. The message names neither its route nor its owner."""

    def __init__(self, job_uuid: UUID) -> None:
        self.job_uuid = job_uuid
        super().__init__(f"The uuid {job_uuid} belongs to a job of another client. Give your job a uuid of its own.")


class JobUnknown(JobRoutingException):
    """A job never had the route that a message names; a `reservation_id` of None means a fixed route."""

    def __init__(self, job_uuid: UUID, reservation_id: int | None) -> None:
        self.job_uuid = job_uuid
        self.reservation_id = reservation_id
        route = "a fixed route" if reservation_id is None else f"reservation {reservation_id}"
        super().__init__(f"Job {job_uuid} never had {route}. Check the uuid and the id that job.routed carried.")


class RouteGivenUp(JobRoutingException):
    """A job has gone on to another miner, under the reservation `present_id`."""

    def __init__(self, job_uuid: UUID, reservation_id: int | None, present_id: int) -> None:
        self.job_uuid = job_uuid
        self.reservation_id = reservation_id
        self.present_id = present_id
        super().__init__(
            f"Job {job_uuid} has gone on to reservation {present_id}. Only receipts of that are taken; what a former "
            "miner did with the job is not paid for."
        )
