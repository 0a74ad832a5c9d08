"""What docs/late-words.md says of reservations: the states it has as columns, its rows, and what to see of a state."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from django.utils import timezone

from allowance import allowance, reading
from allowance.ledger import Window
from allowance.models import Account, Reservation, ReservationState
from allowance.oversight import audit, fates
from receipts import receipts
from receipts.schemas import JobAccepted, JobFinished, JobStarted
from routing import routing
from routing.decision.book import LiveBook
from routing.decision.reading import as_text
from routing.types import MinerIncidentType
from routing.upkeep.journal import replay
from tests import rows
from tests.clock import NOW
from tests.factories import EXECUTOR_CLASS, job_request
from tests.ledgers import CLASS, FIRST_BLOCK, fill_ledger
from tests.rows import declare, mint

JOB = UUID(int=1)
BLOCKS = [FIRST_BLOCK, FIRST_BLOCK + 1, FIRST_BLOCK + 2]
LAST = FIRST_BLOCK + 3
SECONDS = 54
"""What anna's three executors have earned in BLOCKS: a job of so long takes them all."""

HELD_FOR = SECONDS + 100
TTL = 600


ReceiptKind = type[JobStarted] | type[JobAccepted] | type[JobFinished]


class Clock(Protocol):
    """A clock that stands still until it is told otherwise."""

    def shift(self, seconds: int) -> None: ...


@dataclass
class World:
    """What a state leaves to the event after it."""

    clock: Clock
    reservation: int = 4711


Step = Callable[[World], object]


class Table(NamedTuple):
    """A table's columns and rows, and what is seen; `says_stored`: its cells tell whether any row was written."""

    states: dict[str, Step]
    events: dict[str, Step]
    look: Callable[[World], dict[str, str]]
    says_stored: bool = True


def never_made(_world: World) -> None:
    fill_ledger("anna", blocks=len(BLOCKS) + 1, executors=3)


def held(world: World) -> None:
    never_made(world)
    world.reservation = routing().pick(job_request(SECONDS, uuid=str(JOB))).allowance_reservation_id or 0


def expired(world: World) -> None:
    held(world)
    expire(world)


def noticed(world: World) -> None:
    expired(world)
    passing = routing().pick(job_request(SECONDS))
    allowance().undo_allowance_reservation(passing.allowance_reservation_id or 0)


def spent(world: World) -> None:
    held(world)
    spend(world)


def released(world: World) -> None:
    held(world)
    undo(world)


def voided(world: World) -> None:
    held(world)
    drop(world)


def spend(world: World) -> None:
    allowance().spend_allowance(world.reservation)


def undo(world: World) -> None:
    allowance().undo_allowance_reservation(world.reservation)


def expire(world: World) -> None:
    world.clock.shift(HELD_FOR)


def pick(_world: World) -> None:
    routing().pick(job_request(SECONDS))


def drop(_world: World) -> None:
    declare({"anna": Account.objects.get().executors - 1}, LAST)


def leave(_world: World) -> None:
    mint(LAST + 1, timezone.now(), hotkeys=["bert"])


def come_back(world: World) -> None:
    leave(world)
    mint(LAST + 2, timezone.now(), hotkeys=["anna"])


def restore(world: World) -> None:
    """Replay the line that a journal exported while the reservation was held would have."""
    line = {
        "event": "reservation",
        "id": world.reservation,
        "miner": "anna",
        "executor_class": CLASS,
        "job_uuid": str(JOB),
        "blocks": BLOCKS,
        "created_at": NOW.isoformat(),
        "expires_at": (NOW + dt.timedelta(seconds=HELD_FOR)).isoformat(),
        "state": "held",
    }
    list(replay([json.dumps(line).encode()]))


def report(job: UUID = JOB, *, miner: str = "anna", kind: Any = MinerIncidentType.MINER_JOB_FAILED) -> Step:
    """Return the step that reports an incident."""
    return lambda _world: routing().report_incident(kind, miner, str(job), EXECUTOR_CLASS)


def receipt(kind: ReceiptKind, seconds: int = 0, miner: str = "anna") -> Step:
    """Return the step that records a receipt for JOB, written so many `seconds` after NOW."""
    lasting = {} if kind is JobFinished else {"ttl": TTL}
    made = rows.receipt(kind, JOB, miner, NOW + dt.timedelta(seconds=seconds), **lasting)
    return lambda _world: receipts().record(made)


def see_reservation(world: World) -> dict[str, str]:
    now = timezone.now()
    row = Reservation.objects.filter(pk=world.reservation).first()
    balance = reading.read(CLASS, now).balances["anna"]
    window = reading.window(None)
    parts = fates.totals(balance, Window(BLOCKS[0], window.ns[: len(BLOCKS)], window.newest))
    (blocks,) = (fate.value for fate, total in parts.items() if total.ns)
    if blocks == "held" and (row is None or row.state_at(now) is not ReservationState.HELD):
        blocks = "taken"
    ongoing = as_text(JOB) in LiveBook().read(CLASS, now).state.rows["anna"].ongoing
    return {"row": row.state if row else "none", "blocks": blocks, "job": "ongoing" if ongoing else "idle"}


RESERVATIONS = Table(
    states={
        "never made": never_made,
        "held": held,
        "expired": expired,
        "expired, stored": noticed,
        "spent": spent,
        "released": released,
        "held, voided": voided,
    },
    events={
        "spend": spend,
        "release": undo,
        "its time is over": expire,
        "the clock steps back": lambda world: world.clock.shift(-HELD_FOR),
        "another pick": pick,
        "a drop": drop,
        "the miner leaves": leave,
        "the miner leaves and comes back": come_back,
        "started receipt": receipt(JobStarted),
        "finished receipt": receipt(JobFinished),
        "finished receipt, dated one minute ahead": receipt(JobFinished, 60),
        "finished receipt, dated tomorrow": receipt(JobFinished, 86400),
        "incident": report(),
        "check_ledger --repair": lambda _: list(audit.check_ledger(repair=True)),
        "its entry replayed": restore,
    },
    look=see_reservation,
    says_stored=False,
)
