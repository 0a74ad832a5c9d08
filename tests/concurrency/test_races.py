"""Races of two processes, each stopped where it hurts: A stops in the middle, B does all of its, A goes on.

Every race runs as it is: B waits for A, and nothing is wrong. And it runs as a control with the lock taken away: B does
not wait, and the harm is done.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from allowance import allowance
from allowance.oversight.audit import check_ledger
from receipts.models import JobFinishedReceipt
from routing import routing
from tests.concurrency.processes import Crew, Process, Word
from tests.factories import job_request
from tests.jobs import routed
from tests.ledgers import CLASS, FIRST_BLOCK, fill_ledger

pytestmark = pytest.mark.skipif(
    connection.vendor == "sqlite", reason="SQLite has no row lock to take away: BEGIN IMMEDIATE is its lock"
)

BLOCKS = 8
NEWEST = FIRST_BLOCK + BLOCKS - 1
HELD_AS_READ = "after allowance.models.Reservation.state_at"
BEFORE_HOLDING = "before allowance.reservations.hold"


class Race:
    """Two processes, and what happens between them."""

    def __init__(self, first: Process, second: Process, without: str) -> None:
        self.first, self.second, self.without = first, second, without
        self.waited = False
        self.seen: set[int] = set()

    def stops(self, operation: str, stop: str, **how: Any) -> None:
        """Let A begin and stop on its way."""
        self.first.tell(operation, stop=stop, without=self.without, **how)
        assert self.first.stopped() == stop

    def meets(self, operation: str, **how: Any) -> tuple[Word, Word]:
        """Let B do its own, unless it has to wait, then A go on. Returns what came of both."""
        self.second.tell(operation, without=self.without, **how)
        self.waited = self.second.waits_for(self.first)
        if not self.waited:
            theirs = self.second.answer()
            self.seen = {row[0] for row in reservations()}
        self.first.go_on()
        ours = self.first.answer()
        if self.waited:
            theirs = self.second.answer()
            self.seen = {row[0] for row in reservations()}
        return ours, theirs

    def made_late(self) -> list[tuple[int, int]]:
        """Return (id, oldest block) of the reservations that were not there yet when B had its answer."""
        return [row for row in reservations() if row[0] not in self.seen]

    def harmed(self, harm: object, *, waits: bool | None = None) -> None:
        """Judge: there is harm if, and only if, the guard was taken away, and B waits while it is there.

        With `waits` B does so with and without the guard, or does not: it `waits` if A has written what B will write,
        but then it does so after it has read. It does not if A has locked nothing yet: A writes at the version that it
        has read, or reads again.
        """
        assert bool(harm) == bool(self.without)
        assert self.waited == (not self.without if waits is None else waits)


@pytest.fixture
def race(crew: Crew, request: pytest.FixtureRequest) -> Iterator[Race]:
    first, second = crew.call(2)
    race = Race(first, second, request.param)
    yield race
    if not race.without:
        assert differences() == []


def lock(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("race", ["", name], ids=["race", f"control without {name}"], indirect=True)


def reservations() -> list[tuple[int, int]]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, (blocks->>0)::int FROM allowance_reservation ORDER BY id")
        rows: list[tuple[int, int]] = cursor.fetchall()
    return rows


def differences() -> list[str]:
    return [str(difference) for difference in check_ledger()]


def held() -> tuple[int, list[int]]:
    """Reserve the first of anna's blocks."""
    return allowance().reserve_allowance(
        miner="anna", executor_class=CLASS, allowance_seconds=12, job_start_block=NEWEST
    )


def expire(reservation: int) -> None:
    """Let a hold end at this instant, which saves waiting for it."""
    with connection.cursor() as cursor:
        now = timezone.now()
        cursor.execute("UPDATE allowance_reservation SET expires_at = %s WHERE id = %s", [now, reservation])


def minted(number: int) -> str:
    """Return when a block after the newest was minted."""
    return (timezone.now() + dt.timedelta(seconds=12 * (number - NEWEST))).isoformat()


def both(ours: Word, theirs: Word) -> set[int]:
    """Return the blocks that two callers were given."""
    return {*ours["result"]["blocks"]} & {*(theirs["result"] or {"blocks": []})["blocks"]}


@lock("lock_account")
def test_pick_and_pick(race: Race) -> None:
    """A has chosen its blocks; B picks. Without the version they share anna's only executor, and the blocks."""
    fill_ledger("anna", executors=1, blocks=BLOCKS)
    race.stops("pick", BEFORE_HOLDING, seconds=12)
    ours, theirs = race.meets("pick", seconds=30)
    assert theirs["error"] is None
    assert ours["error"] == (None if race.without else "AllMinersBusy")
    race.harmed(race.without and both(ours, theirs), waits=False)


@lock("lock_account")
def test_reserve_and_pick(race: Race) -> None:
    """A has chosen its blocks of anna by itself; B picks. Without the lock it is given the same."""
    fill_ledger("anna", blocks=BLOCKS)
    race.stops("reserve", BEFORE_HOLDING, seconds=12, miner="anna", start=NEWEST)
    ours, theirs = race.meets("pick", seconds=12)
    assert theirs["error"] is None
    race.harmed(both(ours, theirs))


@lock("lock_account")
def test_restore_and_pick(race: Race) -> None:
    """A has stored an old reservation, not yet its blocks as held; B picks. Without the lock it is given them too."""
    fill_ledger("anna", blocks=BLOCKS)
    restored = [FIRST_BLOCK, FIRST_BLOCK + 1]
    race.stops("restore", "before allowance.reservations.store_locked", reservation=99, miner="anna", blocks=restored)
    _, theirs = race.meets("pick", seconds=12)
    assert theirs["error"] is None
    race.harmed({*restored} & {*theirs["result"]["blocks"]})


@lock("lock_account")
@pytest.mark.parametrize("end", ["undo", "spend"])
def test_pick_and_end(race: Race, end: str) -> None:
    """A has chosen its blocks; B ends another hold. Without the lock A writes that hold's blocks as held again."""
    fill_ledger("anna", blocks=BLOCKS)
    other, _ = held()
    race.stops("pick", BEFORE_HOLDING, seconds=12)
    _, theirs = race.meets(end, reservation=other)
    assert theirs["error"] is None
    race.harmed(differences(), waits=False)


@lock("lock_account")
def test_spend_and_lapse(race: Race) -> None:
    """A has read its hold as held; it expires and B picks. Without the lock A spends the blocks that B is given."""
    fill_ledger("anna", blocks=BLOCKS)
    mine, blocks = held()
    race.stops("spend", HELD_AS_READ, reservation=mine)
    expire(mine)
    _, theirs = race.meets("pick", seconds=12)
    assert theirs["error"] is None
    race.harmed({*blocks} & {*theirs["result"]["blocks"]})


@lock("lock_account")
def test_undo_and_lapse(race: Race) -> None:
    """A has read its hold as held; it expires and B picks. Without the lock A frees the blocks that B is given."""
    fill_ledger("anna", executors=3, blocks=BLOCKS)
    mine, _ = held()
    race.stops("undo", HELD_AS_READ, reservation=mine)
    expire(mine)
    _, theirs = race.meets("pick", seconds=12)
    next_blocks = routing().pick(job_request(12)).allowance_blocks or []
    race.harmed({*theirs["result"]["blocks"]} & {*next_blocks})


@lock("lock_account")
@pytest.mark.parametrize(("first", "second"), [("spend", "undo"), ("undo", "spend"), ("spend", "spend")])
def test_end_and_end(race: Race, first: str, second: str) -> None:
    """A has read its hold as held; B ends it. Without the lock both are told that they did."""
    fill_ledger("anna", blocks=BLOCKS)
    mine, _ = held()
    race.stops(first, HELD_AS_READ, reservation=mine)
    _, theirs = race.meets(second, reservation=mine)
    race.harmed(theirs["error"] is None)


@lock("lock_account")
@pytest.mark.parametrize("left", [1, 0])
def test_pick_and_drop(race: Race, left: int) -> None:
    """A has chosen its blocks; B records a drop that voids them. Without the lock A holds them after that."""
    fill_ledger("anna", blocks=BLOCKS)
    race.stops("pick", BEFORE_HOLDING, seconds=12)
    _, theirs = race.meets("manifests", block=NEWEST, executors={"anna": {CLASS: left}})
    assert theirs["error"] is None
    race.harmed([oldest for _, oldest in race.made_late() if oldest < NEWEST], waits=False)


@lock("lock_account")
def test_drop_and_pick(race: Race) -> None:
    """A has written a drop; B picks before it is committed. Without the lock B holds what the drop voids."""
    fill_ledger("anna", blocks=BLOCKS)
    race.stops("manifests", "after allowance.chain._declare", block=NEWEST, executors={"anna": {CLASS: 1}})
    _, theirs = race.meets("pick", seconds=12)
    race.harmed(theirs["error"] is None, waits=True)


@lock("lock_account")
def test_pick_and_block(race: Race) -> None:
    """A is about to reserve with anna; B records a block that she left with. Without the version A does so still."""
    fill_ledger("anna", "bert", blocks=BLOCKS)
    race.stops("pick", BEFORE_HOLDING, seconds=12)
    ours, theirs = race.meets("block", number=NEWEST + 1, timestamp=minted(NEWEST + 1), hotkeys=["bert"])
    assert theirs["error"] is None
    race.harmed(ours["result"]["miner"] == "anna", waits=False)


@lock("lock_account")
def test_pick_and_repair(race: Race) -> None:
    """A is about to reserve with anna, who left; B repairs that. Without the version A does so still."""
    fill_ledger("anna", "bert", blocks=BLOCKS)
    minted_at = dt.datetime.fromisoformat(minted(NEWEST + 1))
    allowance().record_block(number=NEWEST + 1, timestamp=minted_at, stake_share=0.5, hotkeys=["bert"])
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE allowance_miner SET presence = (SELECT presence FROM allowance_miner WHERE hotkey = 'bert')"
        )
    race.stops("pick", BEFORE_HOLDING, seconds=12)
    ours, theirs = race.meets("repair")
    assert theirs["error"] is None
    race.harmed(ours["result"]["miner"] == "anna", waits=False)


@lock("lock_account")
def test_repair_and_pick(race: Race) -> None:
    """A has found what anna's account should hold; B picks. Without the lock A's repair frees B's blocks."""
    fill_ledger("anna", blocks=BLOCKS)
    with connection.cursor() as cursor:  # one bit that no reservation accounts for
        cursor.execute("UPDATE allowance_account SET held = %s", [b"\1" + bytes(127)])
    race.stops("repair", "before allowance.oversight.audit.store_locked")
    _, theirs = race.meets("pick", seconds=12)
    assert theirs["error"] is None
    race.harmed(differences())


@lock("lock_chain")
def test_repair_and_block(race: Race) -> None:
    """A has found that the newest block can't have given anything; B records the next. Without the lock A wins."""
    fill_ledger("anna", blocks=BLOCKS)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE allowance_block SET ns = 1 WHERE number = %s", [NEWEST])
    race.stops("repair", "before allowance.oversight.audit.Difference")
    _, theirs = race.meets("block", number=NEWEST + 1, timestamp=minted(NEWEST + 1))
    assert theirs["error"] is None
    race.harmed(differences())


@lock("lock_chain")
def test_block_and_block(race: Race) -> None:
    """A has not yet committed a block; B records the next. Without the lock neither knows how long the first took."""
    fill_ledger("anna", blocks=BLOCKS)
    race.stops("block", "before allowance.chain.ns_between", number=NEWEST + 1, timestamp=minted(NEWEST + 1))
    _, theirs = race.meets("block", number=NEWEST + 2, timestamp=minted(NEWEST + 2))
    assert theirs["error"] is None
    race.harmed(differences())


@lock("lock_chain")
def test_block_and_first_manifests(race: Race) -> None:
    """A records that anna alone is registered; B, that bert was asked too. Without the lock he stays for ever."""
    now = timezone.now().isoformat()
    race.stops("block", "before allowance.chain._set_presence", number=1, timestamp=now, hotkeys=["anna"])
    _, theirs = race.meets("manifests", block=1, executors={"anna": {CLASS: 1}, "bert": {CLASS: 1}})
    assert theirs["error"] is None
    race.harmed("bert" in [miner.hotkey_ss58 for miner in allowance().miners()])


@lock("lock_chain")
def test_manifests_and_manifests(race: Race) -> None:
    """A has not yet written a drop; B records the rise after it. Without the lock the drop has the last word."""
    fill_ledger("anna", blocks=BLOCKS)
    race.stops("manifests", "before allowance.chain._declare", block=NEWEST, executors={"anna": {CLASS: 1}})
    _, theirs = race.meets("manifests", block=NEWEST + 1, executors={"anna": {CLASS: 2}})
    assert theirs["error"] is None
    race.harmed(allowance().get_manifests() != {"anna": {CLASS: 2}})


@pytest.fixture
def job(transactional_db: None) -> Word:
    """Route a job, as over a socket, and name it and its reservation."""
    fill_ledger("anna", "bert", blocks=BLOCKS)
    offer = routed(job_request(12))
    return {"job": str(offer.uuid), "reservation": offer.route.allowance_reservation_id}


def test_started_and_retry(crew: Crew, job: Word) -> None:
    """A is about to write that the job was started; B gives its route up, which waits for that."""
    first, second = crew.call(2)
    first.tell("say_of_job", stop="before routing.sockets.statements.receipts", kind="started", **job)
    first.stopped()
    second.tell("retry", **job)
    assert second.waits_for(first)
    first.go_on()
    assert [word["error"] for word in (first.answer(), second.answer())] == [None, None]


def test_finished_and_retry(crew: Crew, job: Word) -> None:
    """A is about to spend, because the job is over; B gives its route up first. There is no receipt of that route."""
    first, second = crew.call(2)
    first.tell("say_of_job", stop="before routing.sockets.statements._end", kind="finished", **job)
    first.stopped()
    assert second.ask("retry", **job)["error"] is None
    first.go_on()
    assert first.answer()["error"] == "RouteReleased"
    assert not JobFinishedReceipt.objects.exists()


@pytest.mark.parametrize("kind", ["started", "finished"])
def test_retry_and_late_word(crew: Crew, job: Word, kind: str) -> None:
    """A has stored the job's next route; B, who waits for that, says something of the one before: too late."""
    first, second = crew.call(2)
    first.tell("retry", stop="after routing.sockets.jobs.Claim._store", **job)
    first.stopped()
    second.tell("say_of_job", kind=kind, **job)
    assert second.waits_for(first)
    first.go_on()
    assert [word["error"] for word in (first.answer(), second.answer())] == [None, "RouteReleased"]
