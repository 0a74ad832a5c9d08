"""The public types of the ledger: executor classes, miners, limits and errors."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from allowance.plumbing.errors import RefusedError

BLOCK_EXPIRY = 722
"""A job that starts at block S may use blocks from S - BLOCK_EXPIRY on."""

MAX_JOB_RUN_TIME = 3600
"""The maximum length of a job, in seconds."""

RESERVATION_MARGIN = dt.timedelta(seconds=100)
"""A reservation expires after the job's seconds plus this margin."""

MAX_BLOCK_DURATION_US = 12_500_000
BLOCK_DURATION_US = 12_000_000
"""In microseconds. A block that took longer than MAX_BLOCK_DURATION_US counts as BLOCK_DURATION_US."""

MAX_AHEAD = dt.timedelta(minutes=15)
"""How far a block's timestamp may be ahead of the site's clock. Correct clocks differ by less."""

MAX_WEI = 2**256 - 1
MAX_EXECUTORS = 100_000
"""The maximum number of executors of a miner in a class. It keeps every sum over a window within 64 bits."""

MAX_BLOCK_NUMBER = 2**32 - 1
"""Bittensor's block numbers are unsigned 32-bit integers."""

RESERVATION_ID_BITS = 53
RESERVATION_IDS = 2**RESERVATION_ID_BITS
"""Every reservation id is above 0 and below this: JSON readers in other languages lose more than 53 bits."""

NAMED = 5
"""Maximum number of items that an error lists."""

HOTKEY_LENGTH = 48
"""The maximum length of a hotkey: an ss58 address of the network has 48 characters."""


class ExecutorClass(StrEnum):
    """The kinds of machine that a job may ask for."""

    spin_up_4min__gpu_24gb = "spin_up-4min.gpu-24gb"
    always_on__gpu_24gb = "always_on.gpu-24gb"
    always_on__llm__a6000 = "always_on.llm.a6000"
    always_on__test = "always_on.test"
    always_on__cpu__8c__16gb = "always_on.cpu.8c.16gb"


EXECUTOR_CLASSES = frozenset(ExecutorClass._value2member_map_)


NO_ADDRESS = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 (where miners listen, not where we do)
"""The addresses that a miner without a reachable address announces."""


def is_reachable(address: str, ip_version: int, port: int) -> bool:
    """Tell whether a miner with this axon can be reached. `address` is as `validation.address` returns it."""
    return bool(port and ip_version) and address not in NO_ADDRESS


@dataclass(frozen=True, slots=True)
class Miner:
    """The address and the hotkey of a miner. `ip_version` is 4, 6, or 0 for no address."""

    address: str
    ip_version: int
    port: int
    hotkey_ss58: str

    @property
    def is_reachable(self) -> bool:
        """Whether the miner has an address to which a job can be sent."""
        return is_reachable(self.address, self.ip_version, self.port)

    @property
    def endpoint(self) -> str:
        """The address and the port as one text; an IPv6 address is in brackets."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class BadInputError(ValueError):
    """An argument is invalid. The text names it and says what a valid one is. Nothing is stored.

    The text quotes only the caller's own input, so clients may see it.
    """


class AllowanceException(RefusedError):
    """The base class of the ledger's refusals. A refused call reserves nothing."""


CHECK_CLASS = "Check the executor class. Check that the chain follower records blocks and manifests."


class NotEnoughAllowanceException(AllowanceException):
    """No miner has the required seconds. The attributes name the miners with the most available and the most unspent.

    Amounts are executor-seconds; a hotkey is None if its amount is 0. `excluded` is the number of miners that the
    caller excluded; `instead` says what the caller can do about that. `causes` are sentences about the chain that
    explain the lack of allowance. The text contains no hotkeys because users see it.
    """

    def __init__(
        self,
        *,
        required_allowance: float,
        highest_available_allowance: float,
        highest_available_allowance_ss58: str | None,
        highest_unspent_allowance: float,
        highest_unspent_allowance_ss58: str | None,
        excluded: int = 0,
        instead: str = "exclude fewer miners",
        causes: Sequence[str] = (),
    ) -> None:
        self.causes = tuple(causes)
        self.required_allowance = required_allowance
        self.highest_available_allowance = highest_available_allowance
        self.highest_available_allowance_ss58 = highest_available_allowance_ss58
        self.highest_unspent_allowance = highest_unspent_allowance
        self.highest_unspent_allowance_ss58 = highest_unspent_allowance_ss58
        self.excluded = excluded
        advice: list[str] = []
        if excluded:
            were = "miner was" if excluded == 1 else "miners were"
            advice.append(f"{excluded} {were} excluded: {instead}.")
        if highest_unspent_allowance >= required_allowance:
            advice.append("Retry when a reservation is released or expires.")
        elif highest_unspent_allowance:
            advice.append("Retry with a shorter job, or when more blocks have been minted.")
        elif not causes and not excluded:
            advice.append(CHECK_CLASS)
        super().__init__(
            f"No miner has {required_allowance:g} s of allowance. The highest available allowance is "
            f"{highest_available_allowance:g} s, the highest unspent allowance is {highest_unspent_allowance:g} s. "
            + " ".join([*causes, *advice])
        )


class CannotReserveAllowanceException(AllowanceException):
    """The miner does not have the required seconds, or no longer has them. Amounts are executor-seconds."""

    def __init__(self, *, miner: str, executor_class: str, required: float, available: float) -> None:
        self.miner = miner
        self.executor_class = executor_class
        self.required = required
        self.available = available
        super().__init__(
            f"Miner {miner} has {available:g} s of allowance available for {executor_class}, "
            f"but {required:g} s are required. Call find_miners_with_allowance again, and reserve with another miner."
        )


class JobTooLong(AllowanceException):
    """A job asks for more than MAX_JOB_RUN_TIME seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(
            f"A job may take at most {MAX_JOB_RUN_TIME} s, but this job asks for {seconds:g} s. Split the job."
        )


class NoBlockRecorded(AllowanceException):
    """The chain follower has not recorded a block yet."""

    def __init__(self) -> None:
        super().__init__("No block is recorded yet. Start the chain follower, or replay a journal.")


class BlocksInUse(AllowanceException):
    """Blocks from `first` on can't be forgotten, because reservations use them.

    `held` and `spent` are the ids of these reservations, by state. `spent_up_to` is the newest block that a spent one
    uses, or None.
    """

    def __init__(self, first: int, *, held: Sequence[int], spent: Sequence[int], spent_up_to: int | None) -> None:
        self.first = first
        self.held = tuple(held)
        self.spent = tuple(spent)
        self.spent_up_to = spent_up_to
        if spent:
            some = spent
            advice = f"Spent reservations stay. The lowest block to forget from is {(spent_up_to or 0) + 1}."
        else:
            some = held
            advice = "Wait until these reservations end, or release them with --release-held."
        state = "spent" if spent else "live"
        named = ", ".join(map(str, some[:NAMED])) + (", …" if len(some) > NAMED else "")
        super().__init__(f"{len(some)} {state} reservations use blocks from {first} on: {named}. {advice}")


class LockTimeout(AllowanceException):
    """Another transaction kept a lock of the ledger for too long. Nothing is stored; the call can be repeated."""

    def __init__(self) -> None:
        super().__init__(
            "Other transactions kept the ledger locked for too long. Nothing is stored. Retry. If the error persists, "
            "look for a transaction that does not end."
        )


class ReservationException(AllowanceException):
    """The reservation `reservation_id` can't be spent or released."""

    sentence = "Reservation {id} can't be used."

    def __init__(self, reservation_id: int) -> None:
        self.reservation_id = reservation_id
        super().__init__(self.sentence.format(id=reservation_id))


class ReservationNotFound(ReservationException):
    """No reservation has this id, or it was released."""

    sentence = "There is no reservation {id}. Use the reservation id from the route."


class ReservationReleased(ReservationNotFound):
    """The reservation was released before; its blocks were freed."""

    sentence = "Reservation {id} was released: its blocks are free again. Pick a miner again."


class ReservationAlreadySpent(ReservationException):
    """The reservation was spent before; its job is paid for."""

    sentence = "Reservation {id} is already spent. There is nothing to do."


class ReservationExpired(ReservationException):
    """The reservation expired before it was spent; its blocks are free, and its job is not paid for."""

    sentence = "Reservation {id} expired before it was spent: its blocks are free again. Pick a miner again."
